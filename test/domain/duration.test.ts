import { expect, test } from 'vitest';
import { bytesOf } from '../../src/activities/kubernetes/quantity.ts';
import { parseDuration } from '../../src/domain/duration.ts';

test.each([
  ['90s', 90_000],
  ['1.5h', 5_400_000],
  ['3650d', 315_360_000_000],
  ['3651d', undefined],
  [`${'9'.repeat(400)}s`, undefined],
  ['-1s', undefined],
])('the duration %s', (text, ms) => expect(parseDuration(text)).toBe(ms));

test.each([
  ['10Gi', 10_737_418_240],
  ['1e9', 1e9],
  ['1e999', undefined],
  ['9999999Pi', undefined],
])('the size %s', (text, bytes) => expect(bytesOf(text)).toBe(bytes));
