import { expect, test } from 'vitest';
import { probeText, probeTimes } from '../../src/domain/probes.ts';

const probes = [
  { database: 'shop', query: 'SELECT 1' },
  { database: 'shop', query: 'SELECT 2' },
];

test('a query is called slower only when it is so by much', () => {
  expect(probeTimes(probes, [4, 100], [40, 199]).map(({ slower }) => slower)).toEqual([false, false]);
  expect(probeTimes(probes, [30, 100], [80, 200]).map(({ slower }) => slower)).toEqual([true, true]);
});

test('what was not measured is shown as unknown', () => {
  const [first, second] = probeTimes(probes, [4], [5]).map(probeText);
  expect(first).toBe('SELECT 1 in shop: 5 ms, before 4 ms');
  expect(second).toBe('SELECT 2 in shop: unknown, before unknown');
});
