/** That the fault matrix is whole: every activity, and every call that one makes, by every fault. */
import { expect, test } from 'vitest';
import { activityNames } from './activities.ts';
import { cells as artifactCells } from './artifact-scenes.ts';
import { faults, type Fault } from './faults.ts';
import { cellsOf, known, nameOf } from './scene.ts';
import { atCluster, atClouds } from './scenes.ts';

const scenes = [...Object.values(atCluster).flat(), ...atClouds.flatMap((table) => table.scenes)];
const cells = scenes.flatMap(cellsOf);

const elsewhere: Record<string, string> = {
  resolveSpec: 'makes no call: test/chaos/fuzz-words.test.ts',
  artifactStore: 'makes no call',
};

/** What no scene can meet. */
const impossible: { call: RegExp; fault: Fault; why: string }[] = [
  {
    call: /^DELETE .*\/(pods|persistentvolumes|persistentvolumeclaims)\//,
    fault: '404',
    why: 'told in error that it is gone, the activity waits a minute for what it sees standing, and says NotStopped',
  },
  {
    call: /^GET .*\/persistentvolumeclaims\/pgleap-.*-scratch$/,
    fault: '404',
    why: 'removeScratch alone reads it, and waits for the volume of a claim that is gone in the same way',
  },
];

test('every activity has cells, or is known to need none', async () => {
  const names = await activityNames();
  const inMatrix = new Set<string>([
    ...cells.map(({ scene }) => scene.activity),
    ...artifactCells.map(({ use }) => use.activity.replace(', again', '')),
  ]);
  expect([...inMatrix, ...Object.keys(elsewhere)].filter((name) => !names.includes(name))).toEqual([]);
  expect(Object.keys(elsewhere).filter((name) => inMatrix.has(name))).toEqual([]);
  expect(names.filter((name) => !inMatrix.has(name) && !(name in elsewhere))).toEqual([]);
});

test('every scene has cells, and calls that it was seen to make', () => {
  expect(scenes.map(nameOf).sort()).toEqual(Object.keys(known).sort());
  expect(Object.keys(known).filter((name) => known[name]?.length === 0)).toEqual([]);
});

test('every call meets every fault, or is known not to', () => {
  const met = new Set(cells.map(({ call, fault }) => `${call}: ${fault}`));
  const calls = [...new Set(Object.values(known).flat())];
  const missing = calls.flatMap((call) =>
    faults.filter((fault) => !met.has(`${call}: ${fault}`)).map((fault) => ({ call, fault })),
  );
  const excuse = ({ call, fault }: { call: string; fault: Fault }) =>
    impossible.find((one) => one.call.test(call) && one.fault === fault);
  expect(missing.filter((one) => excuse(one) === undefined).map(({ call, fault }) => `${call}: ${fault}`)).toEqual([]);
  expect(new Set(missing.map(excuse))).toEqual(new Set(impossible));
});
