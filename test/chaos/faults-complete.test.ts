/** That the fault matrix forgets no activity: each has cells, or stands here with the reason why it has none. */
import { readFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { activityNames } from './activities.ts';

const elsewhere: Record<string, string> = {
  resolveSpec: 'makes no call: test/chaos/fuzz-words.test.ts',
  artifactStore: 'makes no call',
  compareFingerprints: 'artifact folder only: test/chaos/faults-artifacts.test.ts',
  writeReport: 'artifact folder only: test/chaos/faults-artifacts.test.ts',
  editManifest: 'artifact folder only: writes as writeReport does',
};

test('every activity is in the fault matrix, or is known not to be', async () => {
  const calls = JSON.parse(readFileSync(new URL('calls.json', import.meta.url), 'utf8')) as Record<string, string[]>;
  // A scene may have several activities, and a word about it in parentheses.
  const inMatrix = Object.keys(calls).flatMap((scene) => scene.replace(/ \(.*\)$/, '').split(', '));
  const names = await activityNames();
  expect([...inMatrix, ...Object.keys(elsewhere)].filter((name) => !names.includes(name))).toEqual([]);
  expect(Object.keys(elsewhere).filter((name) => inMatrix.includes(name))).toEqual([]);
  expect(names.filter((name) => !inMatrix.includes(name) && !(name in elsewhere))).toEqual([]);
});
