import type { Spec } from './spec.ts';

/** One probe of the spec, timed on the source while services were up and on the target when they were again. */
export interface ProbeTimes {
  database: string;
  query: string;
  beforeMs: number | null;
  afterMs: number | null;
  /** At least twice as long and 50 ms more: noise is neither. */
  slower: boolean;
}

/** The probes in the spec's order, with what each took before and after. */
export function probeTimes(probes: Spec['probes'], before: number[], after: number[]): ProbeTimes[] {
  return probes.map(({ database, query }, index) => {
    const [beforeMs, afterMs] = [before[index] ?? null, after[index] ?? null];
    const slower = beforeMs !== null && afterMs !== null && afterMs >= 2 * beforeMs && afterMs >= beforeMs + 50;
    return { database, query, beforeMs, afterMs, slower };
  });
}

/** `SELECT … in shop: 3 ms, before 4 ms`. */
export function probeText({ database, query, beforeMs, afterMs }: ProbeTimes): string {
  const text = query.length > 60 ? `${query.slice(0, 59)}…` : query;
  const ms = (value: number | null): string => (value === null ? 'unknown' : `${Math.round(value)} ms`);
  return `${text} in ${database}: ${ms(afterMs)}, before ${ms(beforeMs)}`;
}
