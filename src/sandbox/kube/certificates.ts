import { createHash, generateKeyPairSync, randomBytes, sign, type KeyObject } from 'node:crypto';

export interface ServerCertificate {
  /** PEM of the authority that clients trust. */
  ca: string;
  cert: string;
  key: string;
}

/**
 * An authority of its own and a certificate for 127.0.0.1 and localhost under it, made anew for each cluster.
 * Node has no way to make X.509 certificates, and asking for an openssl binary would be one more thing to install.
 */
export function makeCertificate(): ServerCertificate {
  const authority = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const server = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const issuer = commonName('pgleap sandbox authority');
  const ca = certificate({
    issuer,
    subject: issuer,
    publicKey: authority.publicKey,
    signer: authority.privateKey,
    extensions: [
      extension('551d13', true, sequence(boolean(true))),
      extension('551d0f', true, tagged(0x03, Buffer.from([0x01, 0x06]))),
      extension('551d0e', false, tagged(0x04, keyId(authority.publicKey))),
    ],
  });
  const cert = certificate({
    issuer,
    subject: commonName('127.0.0.1'),
    publicKey: server.publicKey,
    signer: authority.privateKey,
    extensions: [
      extension('551d11', false, sequence(tagged(0x87, Buffer.from([127, 0, 0, 1])), tagged(0x82, ascii('localhost')))),
      extension('551d25', false, sequence(oid('2b06010505070301'))),
      extension('551d23', false, sequence(tagged(0x80, keyId(authority.publicKey)))),
    ],
  });
  return { ca, cert, key: server.privateKey.export({ type: 'pkcs8', format: 'pem' }).toString() };
}

interface CertificateParts {
  issuer: Buffer;
  subject: Buffer;
  publicKey: KeyObject;
  signer: KeyObject;
  extensions: Buffer[];
}

function certificate({ issuer, subject, publicKey, signer, extensions }: CertificateParts): string {
  const algorithm = sequence(oid('2a8648ce3d040302'));
  const serial = randomBytes(16);
  // DER integers are signed: a leading bit would make it negative.
  serial[0] = (serial[0] ?? 0) & 0x7f || 1;
  const day = 24 * 3600 * 1000;
  const validity = sequence(utcTime(Date.now() - day), utcTime(Date.now() + 365 * day));
  const body = sequence(
    tagged(0xa0, tagged(0x02, Buffer.from([2]))),
    tagged(0x02, serial),
    algorithm,
    issuer,
    validity,
    subject,
    publicKey.export({ type: 'spki', format: 'der' }),
    tagged(0xa3, sequence(...extensions)),
  );
  const signature = tagged(0x03, Buffer.concat([Buffer.from([0]), sign('sha256', body, signer)]));
  const base64 = sequence(body, algorithm, signature).toString('base64');
  return `-----BEGIN CERTIFICATE-----\n${(base64.match(/.{1,64}/g) ?? []).join('\n')}\n-----END CERTIFICATE-----\n`;
}

function tagged(tag: number, content: Buffer): Buffer {
  const { length } = content;
  if (length < 0x80) return Buffer.concat([Buffer.from([tag, length]), content]);
  const head = length < 0x100 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from(head), content]);
}

function sequence(...parts: Buffer[]): Buffer {
  return tagged(0x30, Buffer.concat(parts));
}

function oid(hex: string): Buffer {
  return tagged(0x06, Buffer.from(hex, 'hex'));
}

function ascii(text: string): Buffer {
  return Buffer.from(text, 'ascii');
}

function boolean(value: boolean): Buffer {
  return tagged(0x01, Buffer.from([value ? 0xff : 0]));
}

function commonName(name: string): Buffer {
  return sequence(tagged(0x31, sequence(oid('550403'), tagged(0x0c, ascii(name)))));
}

function utcTime(at: number): Buffer {
  const text = new Date(at).toISOString().replace(/[-:T]/g, '').slice(2, 14);
  return tagged(0x17, ascii(`${text}Z`));
}

function extension(id: string, critical: boolean, value: Buffer): Buffer {
  return sequence(oid(id), ...(critical ? [boolean(true)] : []), tagged(0x04, value));
}

function keyId(key: KeyObject): Buffer {
  return createHash('sha1')
    .update(key.export({ type: 'spki', format: 'der' }))
    .digest();
}
