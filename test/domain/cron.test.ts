import { expect, test } from 'vitest';
import { lastDue } from '../../src/domain/cron.ts';

const at = (text: string) => new Date(text);

test.each([
  ['0 15 * * *', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:00:00.000Z'],
  ['0 15 * * *', '2026-11-22T15:00:30Z', '2026-11-22T15:30:00Z', 'UTC', undefined],
  ['*/20 * * * *', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:20:00.000Z'],
  ['@hourly', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:00:00.000Z'],
  ['0 16 * * *', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'Europe/Berlin', '2026-11-22T15:00:00.000Z'],
  // A Sunday: as a number, as 7, by name; and either day where both are given.
  ['0 15 * * 0', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:00:00.000Z'],
  ['0 15 * * 7', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:00:00.000Z'],
  ['0 15 * nov SUN', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:00:00.000Z'],
  ['0 15 * * 1-5', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', undefined],
  ['0 15 22 * 1', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', '2026-11-22T15:00:00.000Z'],
  ['every day', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', undefined],
  ['0 15 * * *', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'Nowhere/City', undefined],
  // A step of nothing would never end.
  ['*/00 * * * *', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', undefined],
  ['constructor', '2026-11-22T14:30:00Z', '2026-11-22T15:30:00Z', 'UTC', undefined],
])('%s between %s and %s in %s', (schedule, from, to, zone, due) => {
  expect(lastDue(schedule, at(from), at(to), zone)?.toISOString()).toBe(due);
});
