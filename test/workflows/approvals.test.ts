/** Whose yes opens a gate, through the real workflow: several people, other facts, time that passes. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { GateName } from '../../src/domain/phases.ts';
import { gateRow } from '../../src/domain/state.ts';
import { allAuto, failure, oldWorldStands, refusal } from './expectations.ts';
import type { ActivityName } from './fake-world.ts';
import { startHarness, type Harness, type Upgrade } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('approvals');
});
afterAll(() => harness.close());

/** After a yes at `gate` that lapses while `held` lasts: the next yes, before `next` was done for the first, goes on to the end. */
async function expectAskedAgain(
  upgrade: Upgrade,
  gate: 'begin' | 'replace',
  held: { release(): void },
  next: ActivityName,
): Promise<void> {
  await delay(4500);
  held.release();
  await upgrade.until(
    (status) => gateRow(status, gate).state === 'open' && status.notes.some((note) => note.includes('lapsed')),
  );
  expect(upgrade.world.order).not.toContain(next);
  await upgrade.answer(gate);
  expect((await upgrade.handle.result()).ok).toBe(true);
  expect(upgrade.world.broken).toEqual([]);
}

function open(upgrade: Upgrade, gate: GateName) {
  return upgrade.until((status) => gateRow(status, gate).state === 'open');
}

describe.concurrent('approvals', () => {
  test('two people by update and signal; the second passes the gate, duplicates and strangers do not', async () => {
    const upgrade = await harness.start({
      spec: { approvers: ['Ada', 'Grace', 'Linus'], gates: { ...allAuto, begin: { approvals: 2 } } },
    });
    const evidence = gateRow(await open(upgrade, 'begin'), 'begin').evidence?.hash;
    const yes = (by: string) =>
      upgrade.handle.executeUpdate<string, [unknown]>('approve', { args: [{ gate: 'begin', by, evidence }] });
    expect(await yes('Ada')).toContain('counts: 1 of 2');
    expect(await refusal(yes(' ADA '))).toContain('counts once');
    expect(await refusal(yes('Eve'))).toContain('not among');
    expect(await refusal(yes('A\u200Bda'))).toContain('invisible');
    expect(gateRow(await upgrade.status(), 'begin')).toMatchObject({ state: 'open', approvals: [{ by: 'Ada' }] });
    expect(upgrade.world.told.some(({ text }) => text.includes('1 of 2'))).toBe(true);

    // Rollback and resolve are bound by the same list.
    const back = upgrade.handle.executeUpdate<string, [unknown]>('rollback', { args: [{ by: 'Eve' }] });
    expect(await refusal(back)).toContain('not among');
    await upgrade.handle.signal('approve', { gate: 'begin', by: 'Grace', evidence });
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
    const status = await upgrade.status();
    expect(gateRow(status, 'begin')).toMatchObject({ state: 'approved', by: 'Ada and Grace' });
    expect(status.attempts.slice(0, 5).map(({ by, accepted }) => [by, accepted])).toEqual([
      ['Ada', true],
      ['ADA', false],
      ['Eve', false],
      ['Eve', false],
      ['Grace', true],
    ]);
    await keepHistory(upgrade.handle, 'two-approvals');
  });

  test('who started it may not say yes, but no', async () => {
    const upgrade = await harness.start({ spec: { starterMayApprove: false }, memo: { startedBy: 'Ada' } });
    const status = await open(upgrade, 'begin');
    expect(status.startedBy).toBe('Ada');
    const evidence = gateRow(status, 'begin').evidence?.hash;
    const send = (name: string) =>
      upgrade.handle.executeUpdate<string, [unknown]>(name, { args: [{ gate: 'begin', by: 'ada', evidence }] });
    expect(await refusal(send('approve'))).toContain('started this upgrade');
    await send('reject');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('a start without a name is refused where the starter may not approve', async () => {
    const upgrade = await harness.start({ spec: { starterMayApprove: false } });
    const { type, message } = await failure(upgrade);
    expect(type).toBe('SpecInvalid');
    expect(message).toContain('--memo');
    expect(upgrade.world.journal.begun).toBe(false);
  });

  test('a clone that is made anew while gate replace waits voids the yes given for the first', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, replace: { approvals: 2 } } } });
    const clone = upgrade.world.hold('awaitClone');
    await clone.arrived;
    upgrade.world.failOn('awaitClone', 'NotFound');
    const first = gateRow(await open(upgrade, 'replace'), 'replace').evidence?.hash;
    const yes = (by: string, evidence: unknown) =>
      upgrade.handle.executeUpdate<string, [unknown]>('approve', { args: [{ gate: 'replace', by, evidence }] });
    await yes('Ada', first);
    clone.release();
    await upgrade.parked();
    await upgrade.resolve('retry');
    const status = await upgrade.until((seen) => gateRow(seen, 'replace').evidence?.hash !== first);
    expect(gateRow(status, 'replace')).toMatchObject({ state: 'open', approvals: [] });
    expect(status.attempts).toContainEqual(expect.objectContaining({ how: 'policy', message: 'void', by: 'Ada' }));
    expect(await refusal(yes('Grace', first))).toContain('Look at it again');
    const second = gateRow(status, 'replace').evidence?.hash;
    upgrade.world.approvals.add('replace');
    await yes('Grace', second);
    await yes('Ada', second);
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('a yes lapses when nobody joins it in time, and is asked for again', async () => {
    const upgrade = await harness.start({
      spec: { approvalLasts: '5s', gates: { ...allAuto, begin: { approvals: 2 } } },
    });
    const evidence = gateRow(await open(upgrade, 'begin'), 'begin').evidence?.hash;
    const yes = (by: string) =>
      upgrade.handle.executeUpdate<string, [unknown]>('approve', { args: [{ gate: 'begin', by, evidence }] });
    await yes('Ada');
    await upgrade.world.until(() => upgrade.world.told.some(({ text }) => text.includes('has lapsed')));
    expect(gateRow(await upgrade.status(), 'begin').approvals).toEqual([]);
    await Promise.all([yes('Grace'), yes('Ada')]);
    expect((await upgrade.handle.result()).ok).toBe(true);
  });

  test('an approval that waited too long for a look at the world is asked for again', async () => {
    const upgrade = await harness.start({ spec: { approvalLasts: '4s', gates: { ...allAuto, begin: {} } } });
    await open(upgrade, 'begin');
    const look = upgrade.world.hold('inspectCluster');
    await upgrade.answer('begin');
    await look.arrived;
    await expectAskedAgain(upgrade, 'begin', look, 'stopService');
    await keepHistory(upgrade.handle, 'lapsed-at-begin');
  });

  test('an approval that waited too long for the clone is asked for again', async () => {
    const upgrade = await harness.start({ spec: { approvalLasts: '4s', gates: { ...allAuto, replace: {} } } });
    const clone = upgrade.world.hold('awaitClone');
    await clone.arrived;
    await upgrade.answer('replace');
    await expectAskedAgain(upgrade, 'replace', clone, 'replaceClaim');
    await keepHistory(upgrade.handle, 'lapsed-at-replace');
  });

  /** Parks by a failure of `name`, and retries when the yes has lapsed. */
  async function retriedLate(upgrade: Upgrade, name: ActivityName, after: boolean): Promise<void> {
    upgrade.world.failOn(name, 'NotStopped', 1, after);
    await upgrade.answer(name === 'replaceClaim' ? 'replace' : name === 'removeOriginal' ? 'cleanup' : 'reopen');
    await upgrade.parked();
    await delay(4500);
    await upgrade.resolve('retry');
  }

  test.each([
    ['replace', 'replaceClaim'],
    ['reopen', 'sweepTarget'],
  ] as const)('phase %s that parked before what it was approved for asks again', async (gate, name) => {
    const upgrade = await harness.start({ spec: { approvalLasts: '4s', gates: { ...allAuto, [gate]: {} } } });
    await retriedLate(upgrade, name, false);
    const { notes } = await open(upgrade, gate);
    expect(notes.filter((note) => note.includes('has lapsed'))).toEqual([expect.stringContaining(`gate ${gate}`)]);
    const { world } = upgrade;
    expect(gate === 'replace' ? world.state.claim === 'original' : !world.journal.committed).toBe(true);
    await upgrade.answer(gate);
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(world.broken).toEqual([]);
    await keepHistory(upgrade.handle, `lapsed-in-${gate}`);
  });

  test('a no to what is asked again goes back', async () => {
    const upgrade = await harness.start({ spec: { approvalLasts: '4s', gates: { ...allAuto, reopen: {} } } });
    await retriedLate(upgrade, 'sweepTarget', false);
    await open(upgrade, 'reopen');
    await upgrade.answer('reopen', 'reject');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test.each(['approve', 'reject'] as const)('phase cleanup that parked asks again: %s', async (answer) => {
    const upgrade = await harness.start({ spec: { approvalLasts: '4s', gates: { ...allAuto, cleanup: {} } } });
    await retriedLate(upgrade, 'removeOriginal', false);
    const { notes } = await open(upgrade, 'cleanup');
    expect(notes.at(-1)).toContain('gate cleanup has lapsed');
    expect(upgrade.world.state.originalVolume).toBe(true);
    await upgrade.answer('cleanup', answer);
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.state.originalVolume).toBe(answer === 'reject');
    expect(upgrade.world.broken).toEqual([]);
    if (answer === 'approve') await keepHistory(upgrade.handle, 'lapsed-in-cleanup');
  });

  test('what was approved and is done already is not asked for again', async () => {
    const upgrade = await harness.start({
      spec: { approvalLasts: '4s', gates: { ...allAuto, replace: {}, reopen: {} } },
    });
    await retriedLate(upgrade, 'replaceClaim', true);
    await retriedLate(upgrade, 'openTarget', true);
    expect((await upgrade.handle.result()).ok).toBe(true);
    const { told, broken } = upgrade.world;
    expect(told.filter(({ kind, text }) => kind === 'gate' && /gate (replace|reopen):/.test(text))).toHaveLength(2);
    expect(broken).toEqual([]);
  });
});
