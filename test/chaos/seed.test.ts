import { expect, test } from 'vitest';
import { randomOf, sampled, sampleSize } from './seed.ts';
import { printTable } from './table.ts';

test('the same seed draws the same, each name something else', () => {
  const draw = (name: string) => Array.from({ length: 5 }, randomOf(name));
  expect(draw('a')).toEqual(draw('a'));
  expect(draw('a')).not.toEqual(draw('b'));
  for (const number of draw('c')) expect(number >= 0 && number < 1).toBe(true);
});

test('a sample keeps order and size', () => {
  const rows = Array.from({ length: 500 }, (_, index) => index);
  const some = sampled('numbers', rows);
  expect(some).toHaveLength(Math.min(sampleSize ?? 500, 500));
  expect(some).toEqual([...some].sort((a, b) => a - b));
});

test('a table is as wide as its cells', () => {
  expect(
    printTable('t', [
      { point: 'a', rows: 0 },
      { point: 'longer', rows: 12 },
    ]),
  ).toBe('\nt (2)\npoint   rows\na       0\nlonger  12');
});
