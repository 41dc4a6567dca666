/**
 * Histories of upgrades, kept in test/histories to be replayed against every later version of the workflow. They are written
 * by `PGLEAP_WRITE_HISTORIES=1 npx vitest run test/workflows`.
 *
 * The SDK's own JSON form is not used: its converter needs one copy of protobufjs for all of @temporalio, and npm may install
 * several. Here bytes and 64-bit numbers are marked, and everything else is as Temporal has it.
 */
import { mkdir, readFile, readdir, writeFile } from 'node:fs/promises';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { Handle } from './harness.ts';

const folder = new URL('../histories/', import.meta.url);

/** Names of a machine and lines of code: replay does not need them. */
const dropped = new Set(['identity', 'stackTrace']);

function plain(value: unknown): unknown {
  if (typeof value !== 'object' || value === null) return value;
  if (value instanceof Uint8Array) return { $bytes: Buffer.from(value).toString('base64') };
  if (Array.isArray(value)) return value.map((item) => plain(item));
  if ('low' in value && 'high' in value && 'unsigned' in value) {
    return { low: value.low, high: value.high, unsigned: value.unsigned };
  }
  const kept = Object.entries(value).filter(([key, item]) => !dropped.has(key) && item !== null && item !== undefined);
  return Object.fromEntries(kept.map(([key, item]) => [key, plain(item)]));
}

function revive(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || !('$bytes' in value)) return value;
  return new Uint8Array(Buffer.from(String(value.$bytes), 'base64'));
}

export async function keepHistory(handle: Handle, name: string): Promise<void> {
  if (process.env['PGLEAP_WRITE_HISTORIES'] !== '1') return;
  const text = JSON.stringify(plain(await handle.fetchHistory()));
  await mkdir(folder, { recursive: true });
  await writeFile(new URL(`${name}.json.gz`, folder), gzipSync(text, { level: 9 }));
}

/** Every kept history with the workflow id it had: the workflow compares it with its spec. */
export async function keptHistories(): Promise<{ workflowId: string; history: unknown }[]> {
  const names = (await readdir(folder)).filter((name) => name.endsWith('.json.gz'));
  return Promise.all(
    names.map(async (name) => {
      const text = gunzipSync(await readFile(new URL(name, folder))).toString();
      const history = JSON.parse(text, revive) as Kept;
      return { workflowId: history.events[0]?.workflowExecutionStartedEventAttributes?.workflowId ?? name, history };
    }),
  );
}

interface Kept {
  events: { workflowExecutionStartedEventAttributes?: { workflowId?: string } }[];
}
