/**
 * Histories of upgrades, kept in test/histories to be replayed against every later version of the workflow. Those that are not
 * there yet are written by `PGLEAP_WRITE_HISTORIES=1 npx vitest run test/workflows`; one that is there stays as it is.
 *
 * The SDK's own JSON form is not used: its converter needs one copy of protobufjs for all of @temporalio, and npm may install
 * several. Here bytes and 64-bit numbers are marked, and everything else is as Temporal has it.
 */
import { existsSync } from 'node:fs';
import { readFile, readdir, writeFile } from 'node:fs/promises';
import { gunzipSync, gzipSync } from 'node:zlib';
import type { Handle } from './harness.ts';

const folder = new URL('../histories/', import.meta.url);
export const isWriting = process.env['PGLEAP_WRITE_HISTORIES'] === '1';

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

/** Only the first that has the name: a workflow of now cannot make yesterday's history again. */
export async function keepHistory(handle: Pick<Handle, 'fetchHistory'>, name: string): Promise<void> {
  const file = new URL(`${name}.json.gz`, folder);
  if (!isWriting || existsSync(file)) return;
  const text = JSON.stringify(plain(await handle.fetchHistory()));
  await writeFile(file, gzipSync(text, { level: 9 }));
}

/** A history with the workflow id it had: the workflow compares it with its spec. */
interface Kept {
  name: string;
  workflowId: string;
  /** What its workflow passed of `patched()`. */
  patches: string[];
  history: unknown;
}

export async function keptHistories(): Promise<Kept[]> {
  const files = (await readdir(folder)).filter((file) => file.endsWith('.json.gz'));
  return Promise.all(
    files.map(async (file) => {
      const text = gunzipSync(await readFile(new URL(file, folder))).toString();
      const history = JSON.parse(text, revive) as { events: KeptEvent[] };
      const { events } = history;
      const name = file.slice(0, -'.json.gz'.length);
      const started = events[0]?.workflowExecutionStartedEventAttributes;
      const resetTo = events.findLast((event) => event.workflowTaskFailedEventAttributes?.newRunId);
      const runId = resetTo?.workflowTaskFailedEventAttributes?.newRunId;
      // See run-ids.ts.
      if (started && runId !== undefined) started.originalExecutionRunId = runId;
      return { name, workflowId: started?.workflowId ?? name, patches: events.flatMap(patchOf), history };
    }),
  );
}

interface KeptEvent {
  workflowExecutionStartedEventAttributes?: { workflowId?: string; originalExecutionRunId?: string };
  /** A reset leaves one, with the id of the run that it began. */
  workflowTaskFailedEventAttributes?: { newRunId?: string };
  markerRecordedEventAttributes?: {
    markerName: string;
    details?: Record<string, { payloads?: { data: Uint8Array }[] }>;
  };
}

function patchOf({ markerRecordedEventAttributes: marker }: KeptEvent): string[] {
  if (marker?.markerName !== 'core_patch') return [];
  const [payload] = marker.details?.['patch-data']?.payloads ?? [];
  if (payload === undefined) throw new Error('a mark of patched() has another form than it had');
  return [(JSON.parse(Buffer.from(payload.data).toString()) as { id: string }).id];
}
