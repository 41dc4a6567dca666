import { createCipheriv, createDecipheriv, createHash, randomBytes } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { DataConverter, Payload, PayloadCodec } from '@temporalio/common';
import { z } from 'zod';
import { messageOf } from '../activities/errors.ts';
import { UserError } from '../domain/exit-codes.ts';

/*
 * Payload encryption: what Temporal's server keeps of arguments, results, heartbeats, messages, failures, summaries and
 * details is readable only with the key. Worker and client need the same file.
 */

const encoding = 'binary/encrypted';
const cipherName = 'aes-256-gcm';
const nonceBytes = 12;
const tagBytes = 16;

interface Key {
  id: string;
  bytes: Buffer;
}

/**
 * The converter for worker and client; undefined when `PGLEAP_CODEC_KEY_FILE` is not set. The file holds one key a line, each of
 * 64 hexadecimal digits: the first one encrypts, all of them decrypt, so that a new one can be put before the old one while
 * upgrades run. Throws UserError `configuration`; a key is never shown.
 */
export function loadDataConverter(env: NodeJS.ProcessEnv = process.env): DataConverter | undefined {
  const codec = loadCodec(env);
  if (codec === undefined) return undefined;
  return {
    payloadCodecs: [codec],
    // Failures have texts beside their payloads.
    failureConverterPath: fileURLToPath(new URL('failure-converter.ts', import.meta.url)),
  };
}

/** The codec alone, for what the SDK's client leaves undecoded. */
export function loadCodec(env: NodeJS.ProcessEnv = process.env): PayloadCodec | undefined {
  const file = env['PGLEAP_CODEC_KEY_FILE'];
  if (!file) return undefined;
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    throw new UserError('configuration', `PGLEAP_CODEC_KEY_FILE cannot be read: ${messageOf(error)}`);
  }
  const lines = text.split(/\s+/).filter((line) => line !== '');
  if (lines.length === 0 || !lines.every((line) => /^[0-9a-f]{64}$/i.test(line))) {
    throw new UserError(
      'configuration',
      `PGLEAP_CODEC_KEY_FILE (${file}) must hold one key a line, each of 64 hexadecimal digits: openssl rand -hex 32 makes one.`,
    );
  }
  const [first, ...older] = lines.map(keyOf);
  if (first === undefined) throw new RangeError('no key');
  return encryption(first, [first, ...older]);
}

function keyOf(hex: string): Key {
  const bytes = Buffer.from(hex, 'hex');
  return { id: createHash('sha256').update(bytes).digest('hex').slice(0, 8), bytes };
}

const plainShape = z.object({ metadata: z.record(z.string(), z.base64()), data: z.base64() });

function encryption(current: Key, keys: Key[]): PayloadCodec {
  return {
    async encode(payloads) {
      return payloads.map((payload): Payload => {
        const metadata = Object.entries(payload.metadata ?? {}).map(([name, value]) => [name, base64(value)]);
        const plain = JSON.stringify({ metadata: Object.fromEntries(metadata), data: base64(payload.data) });
        const nonce = randomBytes(nonceBytes);
        const cipher = createCipheriv(cipherName, current.bytes, nonce);
        const sealed = Buffer.concat([cipher.update(plain, 'utf8'), cipher.final()]);
        return {
          metadata: { encoding: Buffer.from(encoding), 'encryption-key-id': Buffer.from(current.id) },
          data: Buffer.concat([nonce, cipher.getAuthTag(), sealed]),
        };
      });
    },
    async decode(payloads) {
      return payloads.map((payload): Payload => {
        // What plain `temporal` sends without a codec server, and what is older than the key.
        if (textOf(payload.metadata?.['encoding']) !== encoding) return payload;
        const id = textOf(payload.metadata?.['encryption-key-id']);
        const key = keys.find((one) => one.id === id);
        if (key === undefined) {
          throw new UserError(
            'configuration',
            `No key in PGLEAP_CODEC_KEY_FILE has the id ${id} that this was encrypted with.`,
          );
        }
        const data = Buffer.from(payload.data ?? []);
        const decipher = createDecipheriv(cipherName, key.bytes, data.subarray(0, nonceBytes));
        decipher.setAuthTag(data.subarray(nonceBytes, nonceBytes + tagBytes));
        const plain = Buffer.concat([decipher.update(data.subarray(nonceBytes + tagBytes)), decipher.final()]);
        const read = plainShape.parse(JSON.parse(plain.toString('utf8')));
        const metadata = Object.entries(read.metadata).map(([name, value]) => [name, Buffer.from(value, 'base64')]);
        return { metadata: Object.fromEntries(metadata), data: Buffer.from(read.data, 'base64') };
      });
    },
  };
}

function base64(bytes: Uint8Array | null | undefined): string {
  return Buffer.from(bytes ?? []).toString('base64');
}

function textOf(bytes: Uint8Array | null | undefined): string {
  return Buffer.from(bytes ?? []).toString('utf8');
}
