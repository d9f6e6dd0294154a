import { createHash, type KeyObject, type X509Certificate } from "node:crypto";
import type { TLSSocket } from "node:tls";

/** Base64url SHA-256 of a public key's DER SubjectPublicKeyInfo (RFC 5280 §4.1.2.7): how a statement names a TLS key. */
export function spkiSha256Of(publicKey: KeyObject): string {
  return createHash("sha256")
    .update(publicKey.export({ type: "spki", format: "der" }))
    .digest("base64url");
}

/** The same of the key in a certificate. */
export function certificateSpkiSha256Of(certificate: X509Certificate): string {
  return spkiSha256Of(certificate.publicKey);
}

/**
 * The same of the key that the peer of a connected TLS socket proved to hold.
 *
 * With `rejectUnauthorized: false`, Node does not call `checkServerIdentity` for a self-signed certificate, so a pin
 * there passes silently: compare this value on `secureConnect`, before a byte of the request is written.
 *
 * @returns undefined when the peer showed no certificate.
 */
export function peerSpkiSha256Of(socket: TLSSocket): string | undefined {
  const certificate = socket.getPeerX509Certificate();
  return certificate === undefined ? undefined : certificateSpkiSha256Of(certificate);
}
