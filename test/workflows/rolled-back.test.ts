/** The ways back, and the upgrades that never begin. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { gateRow } from '../../src/domain/state.ts';
import { undoOrder } from '../../src/domain/undo.ts';
import { allAuto, failure, oldWorldStands, refusal } from './expectations.ts';
import type { ActivityName } from './fake-world.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('rolled-back');
});
afterAll(() => harness.close());

describe.concurrent('rolled back', () => {
  test.each(['begin', 'replace', 'reopen'] as const)('a no at gate %s puts the old world back', async (gate) => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, [gate]: {} } } });
    await upgrade.answer(gate, 'reject', 'grace');
    const result = await upgrade.handle.result();
    expect(result).toMatchObject({ ok: false, outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
    expect(result.why).toContain('grace said no');
    oldWorldStands(upgrade);
    await keepHistory(upgrade.handle, `rejected-at-${gate}`);
  });

  test('undo runs strictly backwards, things that only cost money last', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    await upgrade.answer('reopen', 'reject');
    await upgrade.handle.result();
    const { world } = upgrade;
    const wanted = undoOrder(world.journal.undos.map((undo) => ({ ...undo, done: false })));
    const undone = world.journal.undone.map((id) => world.journal.undos.find((undo) => undo.id === id)?.activity);
    expect(undone).toEqual(wanted.flat().map(({ activity }) => activity));
    const started = world.order.slice(world.order.indexOf('restoreTemplate')).filter((name) => name.startsWith('re'));
    expect([...new Set(started)].slice(0, 4)).toEqual([
      'restoreTemplate',
      'rebindOriginal',
      'restartSource',
      'restoreService',
    ]);
    expect(undone.slice(-4)).toEqual(['removeClone', 'removeCandidate', 'removeScratch', 'releaseLease']);
  });

  test('the time limit of gate begin means no', async () => {
    const upgrade = await harness.start({ spec: { gates: { begin: { timeLimit: '150ms', remind: '40ms' } } } });
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
    expect(upgrade.world.told.filter(({ kind }) => kind === 'remind').length).toBeGreaterThan(0);
  });

  test.each(['replace', 'reopen'] as const)('gate %s reminds and stays at its time limit', async (gate) => {
    const upgrade = await harness.start({
      spec: { gates: { ...allAuto, [gate]: { timeLimit: '100ms', remind: '30ms' } } },
    });
    await upgrade.world.until(() => upgrade.world.told.some(({ text }) => text.includes('the time limit of gate')));
    expect(gateRow(await upgrade.status(), gate).state).toBe('open');
    await upgrade.answer(gate);
    expect((await upgrade.handle.result()).ok).toBe(true);
  });

  test.each(['replace', 'reopen'] as const)('gate %s goes back by itself when maxDowntime asks', async (gate) => {
    const upgrade = await harness.start({
      spec: { maxDowntime: '1s', onDowntimeExceeded: 'rollback', gates: { ...allAuto, [gate]: {} } },
    });
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  const midPhase: ActivityName[] = [
    'setRoute',
    'stopService',
    'dump',
    'copyOut',
    'importDump',
    'replaceClaim',
    'analyze',
  ];
  test.each(midPhase)('rollback in the midst of %s', async (name) => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const held = upgrade.world.hold(name);
    await held.arrived;
    const says = await upgrade.handle.executeUpdate<string, [unknown]>('rollback', {
      args: [{ by: 'ada', note: 'the moon is full' }],
    });
    expect(says).toContain('Rolling back');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back', why: 'the moon is full' });
    oldWorldStands(upgrade);
    if (name === 'importDump') await keepHistory(upgrade.handle, 'rolled-back-in-trial');
  });

  test('cancel before the commit point is a rollback', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const held = upgrade.world.hold('importDump');
    await held.arrived;
    await upgrade.handle.cancel();
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back', why: 'The workflow was cancelled.' });
    oldWorldStands(upgrade);
    expect((await upgrade.status()).attempts.at(-1)).toMatchObject({ how: 'cancel', accepted: true });
    await keepHistory(upgrade.handle, 'cancelled');
  });

  test('cancel and rollback after the commit point are refused, and the upgrade goes on', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const held = upgrade.world.hold('startService');
    await held.arrived;
    await upgrade.handle.cancel();
    const send = (input: unknown) => upgrade.handle.executeUpdate<string, [unknown]>('rollback', { args: [input] });
    expect(await refusal(send({ by: 'ada' }))).toContain('would lose everything written since');
    expect(await refusal(send({ by: 'ada', acceptLostWrites: true }))).toContain('docs/rollback.md');
    held.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    const { attempts } = await upgrade.status();
    expect(
      attempts
        .filter(({ accepted }) => !accepted)
        .map(({ message }) => message)
        .toSorted(),
    ).toEqual(['cancel', 'rollback', 'rollback']);
  });

  test('an undo that fails parks, and goes on when it is told to', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    upgrade.world.failOn('restartSource', 'AccessDenied');
    await upgrade.answer('reopen', 'reject');
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase: 'rollback', type: 'AccessDenied', options: ['retry', 'abort'] });
    await upgrade.resolve('retry');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('an undo that fails and is aborted stops there', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    upgrade.world.failOn('rebindOriginal');
    await upgrade.answer('reopen', 'reject');
    await upgrade.parked();
    await upgrade.resolve('abort');
    expect((await failure(upgrade)).type).toBe('Aborted');
    expect(upgrade.world.order).not.toContain('restartSource');
    expect(upgrade.world.journal.closed).toBeNull();
    await keepHistory(upgrade.handle, 'undo-aborted');
  });
});

describe.concurrent('refused', () => {
  test('a FAILED check: every one listed with its remedy, nothing changed', async () => {
    const upgrade = await harness.start({ knobs: { failedCheck: true } });
    const { type, message } = await failure(upgrade);
    expect(type).toBe('PreflightRefused');
    expect(message).toContain('claim.exists: The claim is missing. Name it.');
    expect(upgrade.world.state).toEqual(upgrade.world.oldState());
    expect(upgrade.world.journal.begun).toBe(false);
  });

  test('a check of the target image that FAILED: what was prepared is put back', async () => {
    const upgrade = await harness.start({ knobs: { candidateCheckFails: true } });
    expect(await failure(upgrade)).toMatchObject({ type: 'PreflightRefused' });
    expect(upgrade.world.state).toEqual(upgrade.world.oldState());
    expect(upgrade.world.journal.closed).toBe('refused');
    await keepHistory(upgrade.handle, 'refused-by-target-image');
    expect(upgrade.world.broken).toEqual([]);
  });

  test('a Lease that another upgrade holds', async () => {
    const upgrade = await harness.start({ knobs: { lockedBy: 'pgleap/other' } });
    expect(await failure(upgrade)).toMatchObject({ type: 'Locked', message: 'held by pgleap/other' });
    expect(upgrade.world.journal.begun).toBe(false);
    expect(upgrade.world.state).toEqual(upgrade.world.oldState());
  });

  test('a spec that is none', async () => {
    const upgrade = await harness.start({ spec: { unknown: 1 } });
    expect((await failure(upgrade)).type).toBe('SpecInvalid');
  });

  test('a workflow id of another database', async () => {
    const upgrade = await harness.start({ workflowId: 'pgleap/elsewhere/postgres' });
    const { type, message } = await failure(upgrade);
    expect(type).toBe('WrongWorkflowId');
    expect(message).toContain('pgleap/elsewhere/postgres');
  });

  test('a second start of the same database', async () => {
    const upgrade = await harness.start({ knobs: { namespace: 'twice' } });
    await expect(harness.start({ knobs: { namespace: 'twice' } })).rejects.toThrow('already started');
    harness.worlds.set('pgleap/twice/postgres', upgrade.world);
    await upgrade.answer('begin', 'reject');
    await upgrade.handle.result();
    oldWorldStands(upgrade);
  });
});
