import { createReadStream, statSync, watch, writeFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import type { ServerResponse } from 'node:http';
import { badRequest, type ApiFailure } from './failures.ts';
import type { PodLog } from './kubelet.ts';

export interface LogFile extends PodLog {
  /** Notes when the file grows, until the container has ended. */
  follow(exited: Promise<unknown>): void;
}

/** Containers write plain lines; when they wrote them is known to about this precision. */
const markEveryMs = 25;

export function openLog(path: string): LogFile {
  writeFileSync(path, '', { flag: 'a' });
  const log: LogFile = {
    path,
    marks: [],
    ended: Promise.resolve(),
    follow(exited) {
      let timer: NodeJS.Timeout | undefined;
      // Never earlier than the writing, so that a reader who asks from a time on misses nothing.
      const mark = () => {
        const at = Date.now();
        timer = undefined;
        const { size } = statSync(path, { throwIfNoEntry: false }) ?? { size: 0 };
        if (size > (log.marks.at(-1)?.size ?? 0)) log.marks.push({ at, size });
      };
      mark();
      const watcher = watch(path, () => {
        timer ??= setTimeout(mark, markEveryMs);
      });
      watcher.on('error', () => undefined);
      const stop = () => {
        clearTimeout(timer);
        watcher.close();
        mark();
      };
      log.ended = exited.then(stop);
    },
  };
  return log;
}

/** Streams a log as the kubelet does. Throws 400 for a number that is none. */
export async function sendLog(
  log: PodLog | undefined,
  query: URLSearchParams,
  response: ServerResponse,
): Promise<void> {
  const tail = numberOf(query, 'tailLines');
  const limit = numberOf(query, 'limitBytes') ?? Number.POSITIVE_INFINITY;
  const sinceSeconds = numberOf(query, 'sinceSeconds');
  const sinceTime = query.get('sinceTime');
  const since = sinceSeconds === undefined ? Date.parse(sinceTime ?? '') : Date.now() - sinceSeconds * 1000;
  if (sinceTime !== null && Number.isNaN(since)) throw badRequest(`sinceTime: Invalid value: "${sinceTime}"`);
  response.writeHead(200, { 'content-type': 'text/plain' });
  if (log === undefined) {
    response.end();
    return;
  }
  let from = Number.isNaN(since) ? 0 : offsetAt(log, since);
  const size = statSync(log.path).size;
  if (tail !== undefined) from = Math.max(from, await tailOffset(log.path, from, size, tail));
  const stamped = query.get('timestamps') === 'true';
  let left = limit;
  async function copy(until: number): Promise<void> {
    if (until <= from || log === undefined) return;
    const stream = createReadStream(log.path, { start: from, end: until - 1 });
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      const text = stamped ? stamp(log, chunk, from) : chunk;
      const part = text.subarray(0, left);
      from += chunk.length;
      left -= part.length;
      if (!response.write(part)) await new Promise((resolve) => response.once('drain', resolve).once('close', resolve));
      if (left <= 0 || response.destroyed) return;
    }
  }
  await copy(size);
  if (query.get('follow') === 'true') await followLog(log, copy, () => left <= 0, response);
  response.end();
}

function numberOf(query: URLSearchParams, name: string): number | undefined {
  const text = query.get(name);
  if (text === null || text === '') return undefined;
  if (!/^\d+$/.test(text)) throw badRequest(`${name}: Invalid value: "${text}"`);
  return Number(text);
}

/** Where the first line written at or after that time may begin. */
function offsetAt(log: PodLog, since: number): number {
  const next = log.marks.findIndex((mark) => mark.at >= since);
  if (next === 0) return 0;
  return (next < 0 ? log.marks.at(-1) : log.marks[next - 1])?.size ?? 0;
}

/** The offset of the last `lines` lines in the part of the file from `low` to `end`. */
async function tailOffset(path: string, low: number, end: number, lines: number): Promise<number> {
  if (lines === 0) return end;
  const file = await open(path, 'r');
  try {
    let wanted = lines;
    let position = end;
    const block = Buffer.alloc(64 * 1024);
    while (position > low) {
      const length = Math.min(block.length, position - low);
      position -= length;
      await file.read(block, 0, length, position);
      for (let at = length - 1; at >= 0; at -= 1) {
        // The line feed that ends the last line begins no further one.
        if (block[at] !== 10 || position + at === end - 1) continue;
        wanted -= 1;
        if (wanted === 0) return position + at + 1;
      }
    }
    return low;
  } finally {
    await file.close();
  }
}

function stamp(log: PodLog, chunk: Buffer, offset: number): Buffer {
  let at = offset;
  const lines = chunk.toString('utf8').split(/(?<=\n)/);
  const stamped = lines.map((line) => {
    const mark = log.marks.find((one) => one.size > at);
    at += Buffer.byteLength(line);
    return `${new Date(mark?.at ?? Date.now()).toISOString()} ${line}`;
  });
  return Buffer.from(stamped.join(''));
}

async function followLog(
  log: PodLog,
  copy: (until: number) => Promise<void>,
  isFull: () => boolean,
  response: ServerResponse,
): Promise<void> {
  let wake: (() => void) | undefined;
  let news = false;
  let over = false;
  const stir = () => {
    news = true;
    wake?.();
  };
  const watcher = watch(log.path, stir);
  response.on('close', stir);
  const end = () => {
    over = true;
    stir();
  };
  void log.ended.then(end);
  try {
    for (;;) {
      const last = over;
      news = false;
      await copy(statSync(log.path, { throwIfNoEntry: false })?.size ?? 0);
      if (last || isFull() || response.destroyed) return;
      if (!news) {
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
      }
    }
  } finally {
    watcher.close();
  }
}

/** The refusal for a log of a container that never ran. */
export function noLog(pod: string, container: string, previous: boolean): ApiFailure {
  return badRequest(
    previous
      ? `previous terminated container "${container}" in pod "${pod}" not found`
      : `container "${container}" in pod "${pod}" is waiting to start: ContainerCreating`,
  );
}
