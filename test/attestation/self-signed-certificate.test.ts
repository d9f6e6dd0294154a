import assert from "node:assert/strict";
import { X509Certificate } from "node:crypto";
import { once } from "node:events";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import { connect, createServer } from "node:tls";
import { selfSignedCertificate } from "../../src/attestation/self-signed-certificate.ts";
import { certificateSpkiSha256Of, peerSpkiSha256Of } from "../../src/attestation/spki.ts";
import { NOW_MS } from "./fixture.ts";

const DAY_MS = 86_400_000;

test("selfSignedCertificate() is an X.509 v3 certificate that signs itself", () => {
  const made = selfSignedCertificate({
    name: "127.0.0.1",
    notBeforeMs: NOW_MS,
    notAfterMs: NOW_MS + 30 * DAY_MS,
  });
  const certificate = new X509Certificate(made.certificatePem);
  assert(certificate.verify(certificate.publicKey));
  assert.equal(certificate.subject, "CN=127.0.0.1");
  assert.equal(certificate.issuer, certificate.subject);
  assert.equal(certificate.subjectAltName, "IP Address:127.0.0.1");
  assert.equal(certificate.validFromDate.getTime(), NOW_MS);
  assert.equal(certificate.validToDate.getTime(), NOW_MS + 30 * DAY_MS);
  assert.equal(certificate.ca, false);
  assert.deepEqual(certificate.keyUsage, ["1.3.6.1.5.5.7.3.1"]);
  assert.equal(certificate.publicKey.asymmetricKeyDetails?.namedCurve, "prime256v1");
  assert.equal(certificateSpkiSha256Of(certificate), made.spkiSha256);
  assert.match(certificate.serialNumber, /^[4-7][0-9A-F]{31}$/);
});

for (const { name, san } of [
  { name: "relay.example.org", san: "DNS:relay.example.org" },
  { name: "::1", san: "IP Address:0:0:0:0:0:0:0:1" },
  { name: "2001:db8::7:1", san: "IP Address:2001:DB8:0:0:0:0:7:1" },
  { name: "::", san: "IP Address:0:0:0:0:0:0:0:0" },
  { name: `${"long-label.".repeat(20)}example`, san: `DNS:${"long-label.".repeat(20)}example` },
]) {
  test(`selfSignedCertificate() writes ${name.slice(0, 30)} as an alternative name`, () => {
    const made = selfSignedCertificate({ name, notBeforeMs: NOW_MS, notAfterMs: NOW_MS + DAY_MS });
    assert.equal(new X509Certificate(made.certificatePem).subjectAltName, san);
  });
}

test("selfSignedCertificate() writes years from 2050 as GeneralizedTime", () => {
  const notAfterMs = Date.UTC(2051, 1, 3, 4, 5, 6);
  const made = selfSignedCertificate({ name: "x", notBeforeMs: NOW_MS, notAfterMs });
  assert.equal(new X509Certificate(made.certificatePem).validToDate.getTime(), notAfterMs);
});

test("selfSignedCertificate() makes a new key and serial each time", () => {
  const options = { name: "x", notBeforeMs: NOW_MS, notAfterMs: NOW_MS + DAY_MS };
  const [a, b] = [selfSignedCertificate(options), selfSignedCertificate(options)];
  assert.notEqual(a.spkiSha256, b.spkiSha256);
  assert.notEqual(
    new X509Certificate(a.certificatePem).serialNumber,
    new X509Certificate(b.certificatePem).serialNumber,
  );
});

test("peerSpkiSha256Of() names the key that a TLS server really holds", async () => {
  const options = { name: "127.0.0.1", notBeforeMs: 0, notAfterMs: Date.now() + DAY_MS };
  const made = selfSignedCertificate(options);
  const server = createServer({ key: made.keyPem, cert: made.certificatePem });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  const socket = connect({
    port: (server.address() as AddressInfo).port,
    host: "127.0.0.1",
    // The server's own certificate is the only root: the chain check of OpenSSL accepts it as X.509.
    ca: made.certificatePem,
  });
  try {
    await once(socket, "secureConnect");
    assert.equal(socket.authorized, true);
    assert.equal(peerSpkiSha256Of(socket), made.spkiSha256);
    assert.notEqual(peerSpkiSha256Of(socket), selfSignedCertificate(options).spkiSha256);
  } finally {
    socket.destroy();
    server.close();
    await once(server, "close");
  }
});
