/** Every way through an upgrade, on a real Temporal server, against a world that knows the laws. */
import { WorkflowFailedError, WorkflowUpdateFailedError } from '@temporalio/client';
import { ApplicationFailure, defineSearchAttributeKey } from '@temporalio/common';
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { gateRow, phaseRow } from '../../src/domain/state.ts';
import { undoOrder } from '../../src/domain/undo.ts';
import type { ActivityName } from './fake-world.ts';
import { startHarness, type Harness, type Upgrade } from './harness.ts';
import { keepHistory } from './histories.ts';

vi.setConfig({ maxConcurrency: 8 });

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.close());

const auto = { policy: 'auto' };
const allAuto = { begin: auto, replace: auto, reopen: auto, cleanup: auto };

function oldWorldStands({ world }: Upgrade): void {
  expect(world.broken).toEqual([]);
  expect(world.state).toEqual(world.oldState());
  expect(world.journal.closed).toBe('rolled-back');
}

async function failure(upgrade: Upgrade): Promise<{ type: string; message: string }> {
  const error: unknown = await upgrade.handle.result().catch((caught: unknown) => caught);
  const cause = error instanceof WorkflowFailedError ? error.cause : undefined;
  if (!(cause instanceof ApplicationFailure)) throw new Error(`no such failure: ${String(error)}`);
  return { type: cause.type ?? '', message: cause.message };
}

/** The text of a refused update. */
async function refusal(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => new Error('it was accepted'),
    (caught: unknown) => caught,
  );
  if (!(error instanceof WorkflowUpdateFailedError)) throw error;
  return error.cause?.message ?? '';
}

function positions(order: readonly string[], name: string): number[] {
  return order.flatMap((known, index) => (known === name ? [index] : []));
}

describe.concurrent('upgraded', () => {
  test('every phase in its order, four answers, and the old volume gone at the end', async () => {
    const upgrade = await harness.start();
    await upgrade.approveUpTo('cleanup');
    const result = await upgrade.handle.result();
    const { world } = upgrade;

    expect(world.broken).toEqual([]);
    expect(result).toMatchObject({
      ok: true,
      outcome: 'upgraded',
      from: '16.14',
      to: '18.4',
      strategy: 'runbook',
      rows: 345,
      fingerprintsEqual: true,
      servicesRestored: true,
      routesRestored: true,
    });
    expect(result.downtimeSeconds).toBeGreaterThan(0);
    expect(result.artifacts.map(({ name }) => name).toSorted()).toEqual([
      'dump.sql.zst',
      'fingerprint-source.txt',
      'fingerprint-target.txt',
      'fingerprint-trial.txt',
      'manifest-postgres.yaml',
      'report.html',
      'report.json',
    ]);
    expect(world.state).toEqual({
      ...world.oldState(),
      image: 'postgres:18',
      claim: 'new',
      source: 'stopped',
      fenced: true,
      reclaim: 'Retain',
      originalVolume: false,
    });
    expect(world.journal).toMatchObject({ committed: true, closed: 'upgraded' });
    const status = await upgrade.status();
    expect(status.phases.map(({ name, state }) => `${name} ${state}`)).toEqual(
      status.phases.map(({ name }) => `${name} ${name === 'rehearse' ? 'skipped' : 'done'}`),
    );
    expect(status.attempts.map(({ says }) => says)).toEqual([
      'Gate begin approved by ada.',
      'Gate replace approved by ada.',
      'Gate reopen approved by ada.',
      'Gate cleanup approved by ada.',
    ]);
    await keepHistory(upgrade.handle, 'straight');
  });

  test('what may overlap does: trial and copy beside each other, both before the source halts', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const copy = upgrade.world.hold('copyOut');
    await copy.arrived;
    await upgrade.world.until(() => upgrade.world.order.includes('tryLogins'));
    expect(upgrade.world.order).not.toContain('haltDatabase');
    copy.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('services are all told to stop before the first has stopped', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const stop = upgrade.world.hold('stopService');
    await stop.arrived;
    await upgrade.world.until(() => positions(upgrade.world.order, 'stopService').length === 2);
    stop.release();
    await upgrade.handle.result();
    expect(upgrade.world.order.indexOf('fenceSource')).toBeGreaterThan(
      positions(upgrade.world.order, 'stopService')[1]!,
    );
  });

  test('an answer at gate replace may come before the clone is active, and replace waits for it', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, replace: {} } } });
    const clone = upgrade.world.hold('awaitClone');
    await clone.arrived;
    await upgrade.answer('replace');
    await upgrade.until((status) => gateRow(status, 'replace').state === 'approved');
    expect(upgrade.world.order).not.toContain('replaceClaim');
    clone.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('a clone that is made anew after the approval is asked about again', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, replace: {} } } });
    const clone = upgrade.world.hold('awaitClone');
    await clone.arrived;
    upgrade.world.failOn('awaitClone', 'NotFound');
    await upgrade.answer('replace');
    clone.release();
    await upgrade.parked();
    await upgrade.resolve('retry');
    await upgrade.until((status) => gateRow(status, 'replace').state === 'open');
    expect(upgrade.world.order).not.toContain('replaceClaim');
    await upgrade.answer('replace');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('a rehearsal predicts the downtime, and its candidate is emptied before the trial', async () => {
    const upgrade = await harness.start({ spec: { rehearse: true, gates: { ...allAuto, begin: {} } } });
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    expect(status.plan?.forecast.downtimeSeconds).toBe(8);
    expect(gateRow(status, 'begin').evidence?.shown).toContainEqual({ name: 'downtime predicted', value: '8 s' });
    await upgrade.answer('begin');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('without a rehearsal the downtime is unknown, and said to be', async () => {
    const upgrade = await harness.start();
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    expect(gateRow(status, 'begin').evidence?.shown).toContainEqual({ name: 'downtime predicted', value: 'unknown' });
    await upgrade.answer('begin', 'reject');
    await upgrade.handle.result();
  });

  test('a no at gate cleanup keeps everything and ends', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, cleanup: {} } } });
    await upgrade.answer('cleanup', 'reject');
    expect((await upgrade.handle.result()).ok).toBe(true);
    await keepHistory(upgrade.handle, 'rejected-at-cleanup');
    expect(upgrade.world.state).toMatchObject({ originalVolume: true, clone: 'active', scratch: true, lease: null });
    expect(upgrade.world.broken).toEqual([]);
  });

  test('the time limit of gate cleanup keeps everything, too', async () => {
    const upgrade = await harness.start({
      spec: { gates: { ...allAuto, cleanup: { timeLimit: '200ms', remind: '50ms' } } },
    });
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.state).toMatchObject({ originalVolume: true, clone: 'active' });
    expect(upgrade.world.told.some(({ kind }) => kind === 'remind')).toBe(true);
    expect(gateRow(await upgrade.status(), 'cleanup')).toMatchObject({ state: 'expired', by: 'time limit' });
  });

  test('a source that is written while it is dumped parks, and a new dump is tried out, too', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const dump = upgrade.world.hold('copyOut');
    await dump.arrived;
    await upgrade.world.until(() => positions(upgrade.world.order, 'fingerprint').length >= 2);
    upgrade.world.failOn('compareFingerprints', 'FingerprintDiffers');
    dump.release();
    await upgrade.parked();
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('search attributes follow the upgrade, when the start says they are registered', async () => {
    const upgrade = await harness.start({ spec: { gates: { begin: {} } }, memo: { searchAttributes: true } });
    await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    const attributes = async (name: string) =>
      (await upgrade.handle.describe()).typedSearchAttributes.get(defineSearchAttributeKey(name, 'KEYWORD'));
    expect(await attributes('PgleapWaiting')).toBe('begin');
    await upgrade.answer('begin', 'reject');
    await upgrade.handle.result();
    expect(await attributes('PgleapPhase')).toBe('ended');
    expect(await attributes('PgleapWaiting')).toBe('nothing');
  });

  test('people are told of phases, gates and the end', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    await upgrade.answer('begin');
    await upgrade.handle.result();
    const told = upgrade.world.told.map(({ kind, text }) => `${kind}: ${text}`);
    expect(told.some((text) => text.startsWith('gate: ') && text.includes('gate begin'))).toBe(true);
    expect(told.some((text) => text.startsWith('phase: ') && text.includes('quiesce is done. 2 services at 0'))).toBe(
      true,
    );
    expect(told.at(-1)).toMatch(/^end: .*upgraded/);
  });

  test('progress that activities measure is shown until the phase ends', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const dump = upgrade.world.hold('dump');
    await dump.arrived;
    await upgrade.handle.signal('progress', { what: 'dump', done: 10, total: 40, unit: 'bytes' });
    await upgrade.handle.signal('progress', { what: 'dump', done: 20, total: 40, unit: 'bytes' });
    await upgrade.handle.signal('progress', 'nonsense');
    const { progress } = await upgrade.until((status) => status.progress[0]?.done === 20);
    expect(progress).toMatchObject([{ what: 'dump', done: 20, total: 40, unit: 'bytes' }]);
    dump.release();
    await upgrade.handle.result();
    expect((await upgrade.status()).progress).toEqual([]);
  });
});

describe.concurrent('a target whose pod was replaced at gate reopen', () => {
  test('is verified again before it is opened', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'reopen').state === 'open');
    upgrade.world.target.pod = 'uid-pod-replaced';
    const before = positions(upgrade.world.order, 'fingerprint').length;
    await upgrade.answer('reopen');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(positions(upgrade.world.order, 'fingerprint')).toHaveLength(before + 1);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('and has lost rows parks while there is a way back', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'reopen').state === 'open');
    upgrade.world.target.pod = 'uid-pod-replaced';
    upgrade.world.target.rows = 'lost';
    await upgrade.answer('reopen');
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({
      phase: 'reopen',
      type: 'FingerprintDiffers',
      options: ['retry', 'rollback', 'abort'],
    });
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });
});

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

/** One activity of each phase that no phase before it calls. */
const breakable = {
  prepare: 'createCandidate',
  maintain: 'setRoute',
  quiesce: 'stopService',
  backup: 'dump',
  trial: 'importDump',
  halt: 'haltDatabase',
  clone: 'startClone',
  replace: 'replaceClaim',
  deploy: 'deployTarget',
  restore: 'analyze',
  verify: 'otherSessions',
  reopen: 'openTarget',
  resume: 'startService',
  observe: 'observeService',
  unmaintain: 'resumeCronJob',
  report: 'writeReport',
  cleanup: 'removeOriginal',
} as const satisfies Record<string, ActivityName>;
const breaks = Object.entries(breakable) as [keyof typeof breakable, ActivityName][];
const goesBack = breaks.slice(
  0,
  breaks.findIndex(([phase]) => phase === 'reopen'),
);

describe.concurrent('parked', () => {
  test.each([false, true])(
    'every phase fails once and is done when retried (failing after its effect: %s)',
    async (after) => {
      const upgrade = await harness.start({ spec: { gates: allAuto } });
      for (const [, name] of breaks) upgrade.world.failOn(name, 'CommandFailed', 1, after);
      for (const [phase] of breaks) {
        const { park } = await upgrade.parked();
        expect(park?.phase).toBe(phase);
        expect(park?.message).toContain('failed on purpose');
        await upgrade.resolve('retry');
      }
      expect((await upgrade.handle.result()).ok).toBe(true);
      expect(upgrade.world.broken).toEqual([]);
      const status = await upgrade.status();
      expect(status.parked).toHaveLength(breaks.length);
      for (const [phase] of breaks) expect(phaseRow(status, phase).tries).toBe(2);
      if (after) await keepHistory(upgrade.handle, 'parked-in-every-phase');
    },
  );

  test.each(goesBack)('%s: rollback', async (phase, name) => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn(name, 'CommandFailed', 1, true);
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase, options: ['retry', 'rollback', 'abort'] });
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test.each(breaks)('%s: abort changes nothing more', async (phase, name) => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn(name);
    const { park } = await upgrade.parked();
    expect(park?.phase).toBe(phase);
    expect(park?.options.includes('rollback')).toBe(goesBack.some(([known]) => known === phase));
    await upgrade.resolve('abort');
    expect(await failure(upgrade)).toMatchObject({ type: 'Aborted' });
    expect(upgrade.world.journal.undone).toEqual([]);
    const seen = upgrade.world.order.length;
    await delay(200);
    expect(upgrade.world.order).toHaveLength(seen);
    expect(upgrade.world.journal.closed).toBeNull();
    expect(upgrade.world.broken).toEqual([]);
  });

  test('rollback is refused as an answer after the commit point', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('observeDatabase');
    await upgrade.parked();
    expect(await refusal(upgrade.resolve('rollback'))).toContain('takes retry or abort');
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
  });

  test('a rollback message answers a park', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('dump');
    await upgrade.parked();
    await upgrade.handle.signal('rollback', { by: 'ada' });
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('no worker at the artifact folder parks, and says which folder', async () => {
    const upgrade = await harness.start({
      knobs: { artifactQueue: 'nobody-serves-this' },
      spec: { gates: allAuto },
      memo: { artifactPatience: '300ms' },
    });
    const { park } = await upgrade.parked();
    expect(park?.message).toContain('/artifacts');
    expect(park?.message).toContain('nobody-serves-this');
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('two phases that fail beside each other ask one after the other', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('copyOut');
    upgrade.world.failOn('tryLogins');
    await upgrade.until((status) =>
      ['backup', 'trial'].every((name) => status.phases.find((row) => row.name === name)?.state === 'parked'),
    );
    await upgrade.resolve('retry');
    await upgrade.until(({ park, parked }) => parked.length === 1 && park !== null && park.action === null);
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });
});

describe.concurrent('between plan and begin', () => {
  test('a source pod that was restarted is found again', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    upgrade.world.database.pod.uid = 'uid-pod-restarted';
    upgrade.world.database.podIp = '10.0.0.6';
    await upgrade.answer('begin');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('services that changed void the approval, and are asked about', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    const before = gateRow(await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open'), 'begin').evidence;
    upgrade.world.services[0]!.replicas = 5;
    await upgrade.answer('begin');
    const open = await upgrade.until((seen) => gateRow(seen, 'begin').evidence?.hash !== before?.hash);
    expect(gateRow(open, 'begin').state).toBe('open');
    expect(upgrade.world.order).not.toContain('stopService');
    const stale = { gate: 'begin', by: 'ada', evidence: before?.hash };
    expect(await refusal(upgrade.handle.executeUpdate('approve', { args: [stale] }))).toContain('not the one');
    await upgrade.answer('begin');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.state.counts.get(`${upgrade.world.database.workload.namespace}/web`)).toBe(5);
  });

  test('another claim ends the upgrade with what was prepared put back', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    upgrade.world.database.claim.uid = 'uid-another';
    await upgrade.answer('begin');
    expect(await failure(upgrade)).toMatchObject({ type: 'WrongWorld' });
    expect(upgrade.world.state).toEqual(upgrade.world.oldState());
    expect(upgrade.world.order).not.toContain('suspendCronJob');
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

describe.concurrent('messages', () => {
  test('updates: wrong gate, stale and missing evidence, wrong approver, malformed, duplicate', async () => {
    const upgrade = await harness.start({ spec: { approvers: ['ada'] } });
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    const evidence = gateRow(status, 'begin').evidence?.hash;
    const send = (name: string, input: unknown) =>
      upgrade.handle.executeUpdate<string, [unknown]>(name, { args: [input] });

    expect(await refusal(send('approve', { gate: 'replace', by: 'ada', evidence }))).toContain('gate begin is');
    expect(await refusal(send('approve', { gate: 'begin', by: 'ada', evidence: 'old' }))).toContain(evidence);
    expect(await refusal(send('approve', { gate: 'begin', by: 'ada' }))).toContain('needs the evidence');
    expect(await refusal(send('approve', { gate: 'begin', by: 'eve', evidence }))).toContain('eve is not among');
    expect(await refusal(send('approve', { gate: 'begin', evidence }))).toContain('"by" must be');
    expect(await refusal(send('approve', 'yes'))).toContain('no JSON object');
    expect(await refusal(send('resolve', { park: 'park-1', action: 'retry', by: 'ada' }))).toContain(
      'Nothing is parked',
    );
    expect(gateRow(await upgrade.status(), 'begin').state).toBe('open');

    expect(await upgrade.answer('begin')).toBe('Gate begin approved by ada.');
    expect(await refusal(send('approve', { gate: 'begin', by: 'ada', evidence }))).toContain(
      'was approved already, by ada',
    );
    await send('rollback', { by: 'ada' });
    await upgrade.handle.result();
    oldWorldStands(upgrade);
    const { attempts } = await upgrade.status();
    // What had the wrong shape never reached the history; everything else is kept.
    expect(attempts.map(({ accepted }) => accepted)).toEqual([false, false, false, false, false, true, false, true]);
    await keepHistory(upgrade.handle, 'messages-refused');
  });

  test('signals: bad ones are recorded and shown, good ones work', async () => {
    const upgrade = await harness.start();
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    const evidence = gateRow(status, 'begin').evidence?.hash;
    for (const bad of [
      undefined,
      7,
      [],
      {},
      { gate: 'begin' },
      { gate: 'nowhere', by: 'x' },
      { gate: 'begin', by: 'x', evidence: 'y' },
    ]) {
      await upgrade.handle.signal('approve', bad);
    }
    await upgrade.handle.signal('resolve', { park: 1 });
    await upgrade.handle.signal('rollback', { by: '' });
    await upgrade.until(({ attempts }) => attempts.length === 9);
    expect((await upgrade.status()).attempts.every(({ accepted }) => !accepted)).toBe(true);
    await upgrade.handle.signal('reject', { gate: 'begin', by: 'ada', evidence });
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('a message before its gate is open, and one that arrives with the start, open nothing', async () => {
    const upgrade = await harness.start();
    await upgrade.handle.signal('approve', { gate: 'begin', by: 'ada', evidence: 'x' });
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    expect(status.attempts[0]).toMatchObject({ accepted: false });
    await upgrade.answer('begin', 'reject');
    await upgrade.handle.result();
  });
});

describe.concurrent('plan', () => {
  test('shows checks that FAILED instead of failing', async () => {
    const { world } = harness.makeWorld({ namespace: 'planned', failedCheck: true });
    harness.worlds.set('pgleap-plan/one', world);
    const plan = await harness.plan('pgleap-plan/one', world.spec());
    expect(plan.checks.some(({ status }) => status === 'FAILED')).toBe(true);
    expect(world.state).toEqual(world.oldState());
  });

  test('has the hash that the upgrade shows', async () => {
    const { world } = harness.makeWorld({ namespace: 'twin' });
    harness.worlds.set('pgleap-plan/two', world);
    const plan = await harness.plan('pgleap-plan/two', world.spec());
    const upgrade = await harness.start({ knobs: { namespace: 'twin' } });
    const status = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    expect(status.plan?.hash).toBe(plan.hash);
    await upgrade.answer('begin', 'reject');
    await upgrade.handle.result();
  });

  test('does not take the id of an upgrade', async () => {
    await expect(harness.plan('pgleap/x/postgres', {})).rejects.toThrow('Workflow execution failed');
  });
});
