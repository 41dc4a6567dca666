import { createReadStream } from 'node:fs';
import { createInterface } from 'node:readline';
import type { Comparison } from '../../domain/facts.ts';
import { beat } from '../context.ts';

const shown = 20;

/**
 * Compares two fingerprints line by line. Both are sorted by bytes, so one pass finds what only one of them has; lines of
 * kind `note` tell people things that may differ. Equal means that every other line is in both, in the same order: an
 * unsorted file can make more differences, never fewer.
 */
export async function compareFingerprintFiles(fileA: string, fileB: string): Promise<Comparison> {
  const a = linesOf(fileA);
  const b = linesOf(fileB);
  const differences: string[] = [];
  let differing = 0;
  let seen = 0;
  function differs(which: 'source' | 'target', line: string): void {
    differing += 1;
    // Read byte by byte for the order; for people it is UTF-8 again.
    if (differences.length < shown) {
      differences.push(`only in ${which}: ${Buffer.from(line, 'latin1').toString('utf8').slice(0, 300)}`);
    }
  }
  let left = await next(a);
  let right = await next(b);
  while (left !== undefined || right !== undefined) {
    seen += 1;
    if (seen % 10_000 === 0) beat({ what: 'compare fingerprints', done: seen, total: null, unit: 'rows' });
    if (left === right) {
      left = await next(a);
      right = await next(b);
    } else if (right === undefined || (left !== undefined && left < right)) {
      differs('source', left ?? '');
      left = await next(a);
    } else {
      differs('target', right);
      right = await next(b);
    }
  }
  return { equal: differing === 0, differing, differences };
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
