import { randomInt } from 'node:crypto';

/*
 * One number decides everything that is random in a run. The configuration draws it once, for all files and for the
 * reporter, which prints it: PGLEAP_CHAOS_SEED=<seed> repeats a run.
 */
export const seed: number = whole('PGLEAP_CHAOS_SEED') ?? randomInt(2 ** 31);

/** At most so many rows of each table, and so many cases in a hundred of each property; undefined for all of them. */
export const sampleSize: number | undefined = whole('PGLEAP_CHAOS_SAMPLE');

function whole(name: string): number | undefined {
  const text = process.env[name];
  if (text === undefined || text === '') return undefined;
  if (!/^\d{1,10}$/.test(text)) throw new Error(`${name} must be a whole number, not ${JSON.stringify(text)}`);
  return Number(text);
}

/** Numbers in [0, 1) that are the same for the same seed and name: Mulberry32. */
export function randomOf(name: string): () => number {
  let state = seed;
  for (const character of name) state = Math.imul(state ^ character.charCodeAt(0), 0x9e3779b1);
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** What this run takes of a table's rows: all, or `PGLEAP_CHAOS_SAMPLE` of them, drawn by the seed, in the table's order. */
export function sampled<T>(table: string, rows: readonly T[], size = sampleSize): T[] {
  if (size === undefined || size >= rows.length) return [...rows];
  const random = randomOf(table);
  const drawn = rows.map((row, index) => ({ row, index, order: random() })).sort((a, b) => a.order - b.order);
  return drawn
    .slice(0, size)
    .sort((a, b) => a.index - b.index)
    .map(({ row }) => row);
}
