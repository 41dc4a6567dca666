import { Worker } from 'node:worker_threads';
import { ApplicationFailure } from '@temporalio/common';
import * as fc from 'fast-check';
import { expect, test } from 'vitest';
import { UserError } from '../../src/domain/exit-codes.ts';
import { failures } from '../../src/domain/failures.ts';
import { sampleSize, seed } from './seed.ts';
import { tell } from './table.ts';

/** Of processor time for one case; a regular expression or loop that runs away takes more. */
const caseMs = 1500;
const hangMs = 20_000;

/*
 * What runs for ever without awaiting keeps even a test's own time limit from passing. So another thread watches the number
 * of the running case, and ends the process when it stays the same.
 */
const watched = new Int32Array(new SharedArrayBuffer(4));
new Worker(
  `const { workerData: [cell, ms] } = require('node:worker_threads');
   let last = -1, since = Date.now();
   setInterval(() => {
     const now = Atomics.load(cell, 0);
     if (now !== last || now % 2 === 0) { last = now; since = Date.now(); }
     else if (Date.now() - since > ms) {
       require('node:fs').writeSync(2, 'a case of fuzzing hangs for ' + ms + ' ms: the process is ended\\n');
       process.kill(process.pid, 'SIGKILL');
     }
   }, 500);`,
  { eval: true, workerData: [watched, hangMs] },
).unref();

/**
 * A test of `runs` cases (a part of them in a sample). `check` throws when a case is not met as it should be; it may not
 * take more than 1.5 s of processor time for one. fast-check shrinks what fails and says how to repeat it.
 */
export function fuzz<T>(
  what: string,
  cases: fc.Arbitrary<T>,
  runs: number,
  check: (value: T) => unknown,
  examples: NoInfer<T>[] = [],
  /** How many inputs one case holds. */
  each = 1,
): void {
  test(what, { timeout: 300_000 }, async (context) => {
    const numRuns = sampleSize === undefined ? runs : Math.max(20, Math.ceil((runs * Math.min(sampleSize, 100)) / 100));
    let slowest = 0;
    let met = 0;
    tell(context, 'bad input', { input: what, cases: 0 });
    await fc.assert(
      fc.asyncProperty(cases, async (value) => {
        met += 1;
        Atomics.add(watched, 0, 1);
        const began = process.cpuUsage();
        try {
          await check(value);
        } finally {
          if (Atomics.load(watched, 0) % 2 === 1) Atomics.add(watched, 0, 1);
        }
        const { user, system } = process.cpuUsage(began);
        const took = (user + system) / 1000;
        slowest = Math.max(slowest, took);
        expect(took, 'milliseconds of processor time for one case').toBeLessThan(caseMs);
      }),
      {
        seed,
        numRuns,
        examples: examples.map((example): [T] => [example]),
        // Shrinking a long text takes its time, too.
        interruptAfterTimeLimit: 240_000,
        asyncReporter: async (run) => {
          if (run.failed) throw new Error(short(fc.defaultReportMessage(run)), { cause: run.errorInstance });
        },
      },
    );
    expect(met, 'cases within the time limit').toBeGreaterThanOrEqual(numRuns);
    tell(context, 'bad input', { input: what, cases: met * each, 'slowest ms': Math.ceil(slowest) });
  });
}

function short(text: string | undefined): string {
  return text === undefined || text.length < 3000 ? (text ?? '') : `${text.slice(0, 2000)} … ${text.slice(-800)}`;
}

/**
 * What `run` gives; undefined when it ends with an error that pgleap explains: one of its own failures or a UserError, with
 * words for people and no stack in them. Any other error is thrown on.
 */
export async function explained<R>(run: () => R): Promise<Awaited<R> | undefined> {
  try {
    return await run();
  } catch (error) {
    const known = error instanceof ApplicationFailure ? String(error.type) in failures : error instanceof UserError;
    if (!known || !(error instanceof Error)) throw error;
    expect(error.message.length).toBeGreaterThan(15);
    expect(error.message).not.toMatch(/\n\s+at .*[:(]\d+|\[object Object\]|\bis not iterable|Cannot read propert/);
    return undefined;
  }
}

/** Texts that are not what anybody meant: control characters, NUL, lone surrogates, very long ones, other scripts. */
export const strangeText: fc.Arbitrary<string> = fc.oneof(
  fc.string({ unit: 'binary', maxLength: 60 }),
  fc.string({ unit: 'grapheme', maxLength: 40 }),
  fc.string({ maxLength: 40 }).map((text) => `${text}\u0000${text}\r\n\u001b[31m`),
  fc.tuple(fc.string({ minLength: 1, maxLength: 4 }), fc.nat(20_000)).map(([text, count]) => text.repeat(count)),
  fc.constantFrom('', ' ', '\n', '\ud800', 'null', 'undefined', '__proto__', 'constructor', '-1', '1e999', 'NaN'),
);

/** Any JSON, and some that is deep or huge. */
export const strangeJson: fc.Arbitrary<unknown> = fc.oneof(
  { weight: 8, arbitrary: fc.jsonValue({ maxDepth: 4 }) },
  { weight: 1, arbitrary: strangeText },
  { weight: 1, arbitrary: fc.nat(3000).map(deep) },
  { weight: 1, arbitrary: fc.nat(5000).map((length) => Array.from({ length }, (_, index) => index)) },
);

function deep(depth: number): unknown {
  let value: unknown = 'bottom';
  for (let index = 0; index < depth; index += 1) value = index % 2 === 0 ? [value] : { inner: value };
  return value;
}

/** What `make` gives with some characters taken out, put in, doubled or changed: nearly right, which tries most. */
export function nearly(right: fc.Arbitrary<string>): fc.Arbitrary<string> {
  const edit = fc.record({
    at: fc.nat(),
    remove: fc.nat(5),
    insert: fc.oneof(fc.string({ maxLength: 5 }), strangeText),
  });
  return fc.tuple(right, fc.array(edit, { maxLength: 4 })).map(([text, edits]) =>
    edits.reduce((left, { at, remove, insert }) => {
      const place = left.length === 0 ? 0 : at % left.length;
      return left.slice(0, place) + insert + left.slice(place + remove);
    }, text),
  );
}

/** A right value with some of its fields missing or of another type, however deep. */
export function damaged(right: unknown): fc.Arbitrary<unknown> {
  const places = pathsOf(right);
  const damage = fc.record({ place: fc.constantFrom(...places), with: fc.option(strangeJson, { freq: 3 }) });
  return fc.array(damage, { minLength: 1, maxLength: 4 }).map((damages) => {
    let value: unknown = structuredClone(right);
    for (const { place, with: other } of damages) value = put(value, place, other);
    return value;
  });
}

export const asText = (value: unknown) => JSON.stringify(value) ?? '';

/** What a server may answer in place of `right`. */
export const bodies = (right: unknown): fc.Arbitrary<string> =>
  fc.oneof(damaged(right).map(asText), strangeJson.map(asText), nearly(fc.constant(asText(right))), strangeText);

type Path = (string | number)[];

function pathsOf(value: unknown, above: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [above];
  return [above, ...Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...above, key]))];
}

/** null takes the field out. */
function put(value: unknown, [key, ...rest]: Path, other: unknown): unknown {
  if (key === undefined) return other;
  if (typeof value !== 'object' || value === null) return value;
  const holder = value as Record<string, unknown>;
  if (rest.length === 0 && other === null) delete holder[String(key)];
  else if (String(key) in holder || rest.length === 0) holder[String(key)] = put(holder[String(key)], rest, other);
  return value;
}
