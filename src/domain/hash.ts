import { sha256 } from '@noble/hashes/sha2.js';
import { bytesToHex, utf8ToBytes } from '@noble/hashes/utils.js';
import canonicalize from 'canonicalize';

/**
 * SHA-256, in hex, of a value's canonical JSON (RFC 8785): equal facts have equal hashes, whatever the order of their keys.
 * Throws TypeError for what JSON cannot hold, e.g. NaN or undefined at the top.
 */
export function canonicalHash(value: unknown): string {
  const text = canonicalize(value);
  if (text === undefined) throw new TypeError('not JSON');
  return bytesToHex(sha256(utf8ToBytes(text)));
}
