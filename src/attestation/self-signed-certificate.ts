/**
 * An X.509 v3 certificate (RFC 5280) over a fresh P-256 key, in DER (X.690) built here: Node makes keys but no
 * certificates, and a relay's certificate has no issuer to be trusted. Who trusts it, trusts the key hash in the
 * attested statement.
 *
 * @module
 */
import { generateKeyPairSync, randomBytes, sign } from "node:crypto";
import { isIP } from "node:net";
import { spkiSha256Of } from "./spki.ts";

export interface SelfSignedCertificate {
  /** PKCS#8 PEM. It exists in memory only. */
  readonly keyPem: string;
  readonly certificatePem: string;
  /** Base64url SHA-256 of the DER SubjectPublicKeyInfo. */
  readonly spkiSha256: string;
}

const OID = {
  ecdsaWithSha256: "1.2.840.10045.4.3.2",
  commonName: "2.5.4.3",
  subjectAltName: "2.5.29.17",
  basicConstraints: "2.5.29.19",
  keyUsage: "2.5.29.15",
  extendedKeyUsage: "2.5.29.37",
  serverAuth: "1.3.6.1.5.5.7.3.1",
} as const;

/** Upper bound of X.520 for a common name. */
const COMMON_NAME_CHARS_MAX = 64;

/**
 * A new key and a certificate for it.
 *
 * @param options.name DNS name or IP address; also the common name.
 * @param options.notBeforeMs @param options.notAfterMs Unix milliseconds, cut to seconds.
 */
export function selfSignedCertificate(options: {
  readonly name: string;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
}): SelfSignedCertificate {
  const { privateKey, publicKey } = generateKeyPairSync("ec", { namedCurve: "P-256" });
  const algorithm = sequence(objectIdentifier(OID.ecdsaWithSha256));
  const name = sequence(
    set(
      sequence(
        objectIdentifier(OID.commonName),
        tlv(UTF8_STRING, Buffer.from(options.name.slice(0, COMMON_NAME_CHARS_MAX))),
      ),
    ),
  );
  const toBeSigned = sequence(
    tlv(explicitTag(0), integer(Buffer.of(2))),
    integer(serialNumber()),
    algorithm,
    name,
    sequence(time(options.notBeforeMs), time(options.notAfterMs)),
    name,
    publicKey.export({ type: "spki", format: "der" }),
    tlv(
      explicitTag(3),
      sequence(
        extension(OID.basicConstraints, true, sequence()),
        // digitalSignature is bit 0: one byte with seven unused bits.
        extension(OID.keyUsage, true, tlv(BIT_STRING, Buffer.of(7, 0x80))),
        extension(OID.extendedKeyUsage, false, sequence(objectIdentifier(OID.serverAuth))),
        extension(OID.subjectAltName, false, sequence(alternativeName(options.name))),
      ),
    ),
  );
  const signature = sign("sha256", toBeSigned, privateKey);
  const certificate = sequence(
    toBeSigned,
    algorithm,
    tlv(BIT_STRING, Buffer.concat([Buffer.of(0), signature])),
  );
  return {
    keyPem: privateKey.export({ type: "pkcs8", format: "pem" }).toString(),
    certificatePem: pem(certificate),
    spkiSha256: spkiSha256Of(publicKey),
  };
}

const BOOLEAN = 0x01;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const OBJECT_IDENTIFIER = 0x06;
const UTF8_STRING = 0x0c;
const UTC_TIME = 0x17;
const GENERALIZED_TIME = 0x18;
const SEQUENCE = 0x30;
const SET = 0x31;

const explicitTag = (n: number): number => 0xa0 | n;
const implicitTag = (n: number): number => 0x80 | n;

function tlv(tag: number, content: Uint8Array): Buffer {
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.of(tag, length), content]);
  const hex = length.toString(16);
  const lengthBytes = Buffer.from(hex.length % 2 === 0 ? hex : `0${hex}`, "hex");
  return Buffer.concat([Buffer.of(tag, 0x80 | lengthBytes.length), lengthBytes, content]);
}

function sequence(...parts: readonly Uint8Array[]): Buffer {
  return tlv(SEQUENCE, Buffer.concat(parts));
}

function set(...parts: readonly Uint8Array[]): Buffer {
  return tlv(SET, Buffer.concat(parts));
}

function integer(magnitude: Buffer): Buffer {
  return tlv(INTEGER, magnitude);
}

/** RFC 5280 §4.1.2.2: positive, at most 20 octets, unique. The top bits keep it positive and free of leading zeros. */
function serialNumber(): Buffer {
  const bytes = randomBytes(16);
  bytes[0] = 0x40 | ((bytes[0] ?? 0) & 0x3f);
  return bytes;
}

function objectIdentifier(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split(".").map(Number);
  const bytes = [first * 40 + second];
  for (const arc of rest) {
    const base128 = [arc & 0x7f];
    for (let high = Math.floor(arc / 128); high > 0; high = Math.floor(high / 128))
      base128.unshift(0x80 | (high & 0x7f));
    bytes.push(...base128);
  }
  return tlv(OBJECT_IDENTIFIER, Buffer.from(bytes));
}

/** RFC 5280 §4.1.2.5: UTCTime through 2049, GeneralizedTime after, both in whole seconds of UTC. */
function time(ms: number): Buffer {
  const digits = new Date(ms).toISOString().replace(/[-:T]|\.\d+/g, "");
  return Number(digits.slice(0, 4)) < 2050
    ? tlv(UTC_TIME, Buffer.from(digits.slice(2)))
    : tlv(GENERALIZED_TIME, Buffer.from(digits));
}

function extension(oid: string, critical: boolean, value: Buffer): Buffer {
  return sequence(
    objectIdentifier(oid),
    critical ? tlv(BOOLEAN, Buffer.of(0xff)) : Buffer.alloc(0),
    tlv(OCTET_STRING, value),
  );
}

/** GeneralName: dNSName [2] or iPAddress [7]. */
function alternativeName(name: string): Buffer {
  switch (isIP(name)) {
    case 4:
      return tlv(implicitTag(7), Buffer.from(name.split(".").map(Number)));
    case 6:
      return tlv(implicitTag(7), ipv6Bytes(name));
    default:
      return tlv(implicitTag(2), Buffer.from(name, "latin1"));
  }
}

function ipv6Bytes(address: string): Buffer {
  // The URL parser expands nothing but checks and lower-cases; zero groups are filled in here.
  const canonical = new URL(`http://[${address}]`).hostname.slice(1, -1);
  const [head = "", tail] = canonical.split("::");
  const groups = (part: string): string[] => (part === "" ? [] : part.split(":"));
  const left = groups(head);
  const right = groups(tail ?? "");
  const zeros = tail === undefined ? 0 : 8 - left.length - right.length;
  const all = [...left, ...Array.from({ length: zeros }, () => "0"), ...right];
  return Buffer.from(all.map((group) => group.padStart(4, "0")).join(""), "hex");
}

function pem(der: Buffer): string {
  const lines = der.toString("base64").match(/.{1,64}/g) ?? [];
  return `-----BEGIN CERTIFICATE-----\n${lines.join("\n")}\n-----END CERTIFICATE-----\n`;
}
