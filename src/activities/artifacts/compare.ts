import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Comparison } from '../../domain/facts.ts';
import { beat } from '../context.ts';

const shown = 20;

/**
 * Compares two fingerprints: a line each of kind, database, name and value, apart by tabs. Both are sorted by bytes, so one
 * pass finds what differs; lines of kind `note` tell people things that may differ. Equal means that every other line is in
 * both, in the same order: an unsorted file can make more differences, never fewer.
 */
export async function compareFingerprintFiles(fileA: string, fileB: string): Promise<Comparison> {
  const a = linesOf(fileA);
  const b = linesOf(fileB);
  const differences: string[] = [];
  let differing = 0;
  let seen = 0;
  function differs(line: string, text: string): void {
    differing += 1;
    if (differences.length < shown) differences.push(`${nameIn(line)}: ${text}`);
  }
  let left = await next(a);
  let right = await next(b);
  while (left !== undefined || right !== undefined) {
    seen += 1;
    if (seen % 10_000 === 0) beat({ what: 'compare fingerprints', done: seen, total: null, unit: 'rows' });
    if (left === right) {
      left = await next(a);
      right = await next(b);
    } else if (left !== undefined && right !== undefined && keyOf(left) === keyOf(right)) {
      differs(left, `${valueIn(left)} in the source, ${valueIn(right)} in the other`);
      left = await next(a);
      right = await next(b);
    } else if (right === undefined || (left !== undefined && left < right)) {
      differs(left ?? '', 'only in the source');
      left = await next(a);
    } else {
      differs(right, 'not in the source');
      right = await next(b);
    }
  }
  return { equal: differing === 0, differing, differences };
}

function keyOf(line: string): string {
  return line.split('\t', 3).join('\t');
}

/** Read byte by byte for the order; for people it is UTF-8 again. */
function nameIn(line: string): string {
  return decode(keyOf(line).replaceAll('\t', ' '));
}

function valueIn(line: string): string {
  return decode(line.slice(keyOf(line).length + 1)) || '(nothing)';
}

function decode(bytes: string): string {
  return Buffer.from(bytes, 'latin1').toString('utf8').slice(0, 200);
}

async function* linesOf(file: string): AsyncGenerator<string, undefined> {
  const lines = createInterface({ input: createReadStream(file, { encoding: 'latin1' }), crlfDelay: Infinity });
  for await (const line of lines) {
    if (line !== '' && !/^note\b/.test(line)) yield line;
  }
  return undefined;
}

async function next(lines: AsyncGenerator<string, undefined>): Promise<string | undefined> {
  return (await lines.next()).value;
}
