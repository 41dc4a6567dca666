/** The ways through an upgrade that end with a new server. */
import { setTimeout as delay } from 'node:timers/promises';
import { defineSearchAttributeKey } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { gateRow } from '../../src/domain/state.ts';
import { allAuto, failure, oldWorldStands, positions, refusal } from './expectations.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('upgraded');
});
afterAll(() => harness.close());

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

  test('two upgrades begun at the same moment have ids of their own', async () => {
    const both = await Promise.all([harness.start(), harness.start()]);
    const ids = await Promise.all(both.map(async (upgrade) => (await upgrade.status()).upgradeId));
    expect(new Set(ids).size).toBe(2);
    for (const id of ids) expect(id).toMatch(/^u[0-9a-f]{8}$/);
    await Promise.all(both.map((upgrade) => upgrade.handle.cancel()));
    await Promise.all(both.map((upgrade) => upgrade.handle.result()));
  });

  test('what may overlap does: trial and copy beside each other, the copy before the source halts', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const copy = upgrade.world.hold('copyOut');
    await copy.arrived;
    await upgrade.world.until(() => upgrade.world.order.includes('tryLogins'));
    expect(upgrade.world.order).not.toContain('haltDatabase');
    copy.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('the source halts and is cloned beside the trial, and gate replace waits for both', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, replace: {} } } });
    const trial = upgrade.world.hold('tryLogins');
    await trial.arrived;
    await upgrade.until(({ phases }) => phases.find(({ name }) => name === 'clone')?.state === 'done');
    expect(gateRow(await upgrade.status(), 'replace').state).toBe('pending');
    trial.release();
    await upgrade.answer('replace');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('a lost candidate is not made anew under a look at the source', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('tryLogins', 'PodLost', 1);
    const copy = upgrade.world.hold('copyOut');
    await copy.arrived;
    const look = upgrade.world.hold('nextTransaction');
    copy.release();
    await look.arrived;
    await upgrade.world.until(() => upgrade.world.order.includes('tryLogins'));
    const made = () => upgrade.world.order.filter((name) => name === 'createCandidate').length;
    const before = made();
    await delay(300);
    expect(made()).toBe(before);
    look.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(made()).toBe(before + 1);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('the site itself is up while running Jobs are awaited', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const job = upgrade.world.hold('suspendCronJob');
    await job.arrived;
    const status = await upgrade.until(({ phases }) =>
      phases.some(({ note }) => note?.includes('running Jobs') === true),
    );
    expect(status.downtime.from).toBeNull();
    expect(upgrade.world.order).not.toContain('setRoute');
    expect(upgrade.world.order).not.toContain('stopService');
    job.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('what would start services again is paused first, and goes on last', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const result = await upgrade.handle.result();
    expect(result.ok).toBe(true);
    const { order, broken } = upgrade.world;
    expect(broken).toEqual([]);
    const steps = [
      'pauseReconciler',
      'suspendCronJob',
      'setRoute',
      'stopService',
      'seeAtRest',
      'fenceSource',
      'startService',
      'restoreRoute',
      'resumeCronJob',
      'resumeReconciler',
    ];
    const places = steps.map((name) => order.indexOf(name));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
    expect(places).not.toContain(-1);
  });

  test('a service that runs again is a question to a person, and retry stops it again', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('seeAtRest', 'NotStopped');
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase: 'quiesce', type: 'NotStopped' });
    expect(upgrade.world.order).not.toContain('fenceSource');
    const stopped = positions(upgrade.world.order, 'stopService').length;
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(positions(upgrade.world.order, 'stopService')).toHaveLength(2 * stopped);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('services are all told to stop before the first has stopped', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const stop = upgrade.world.hold('stopService');
    await stop.arrived;
    await upgrade.world.until(() => positions(upgrade.world.order, 'stopService').length === 2);
    // One that is slow to stop does not hide that another is down.
    expect((await upgrade.status()).downtime.from).not.toBeNull();
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

  test('what keeps services changed: the gate asks once more, not for ever', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    const before = gateRow(await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open'), 'begin').evidence;
    upgrade.world.reconcilers[0]!.before = 'false';
    await upgrade.answer('begin');
    const open = await upgrade.until((seen) => gateRow(seen, 'begin').evidence?.hash !== before?.hash);
    expect(gateRow(open, 'begin').state).toBe('open');
    expect(upgrade.world.order).not.toContain('pauseReconciler');
    await upgrade.answer('begin');
    await upgrade.until(({ phases }) => phases.some(({ name, state }) => name === 'maintain' && state !== 'pending'));
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.journal.undos).toContainEqual(
      expect.objectContaining({
        activity: 'resumeReconciler',
        args: expect.objectContaining({ reconciler: expect.objectContaining({ before: 'false' }) }),
      }),
    );
    expect(upgrade.world.broken).toEqual([]);
  });

  test.each([false, true])(
    'a right that is gone parks with its name, nothing went down (unreadable: %s)',
    async (blind) => {
      const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
      await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
      Object.assign(upgrade.world.rights, { missing: true, blind });
      await upgrade.answer('begin');
      const { park } = await upgrade.parked();
      expect(park).toMatchObject({ type: 'PreflightRefused', options: ['retry', 'rollback', 'abort'] });
      expect(park?.message).toContain('kube.access: It may not: patch deployments. Bind it. Mend it');
      expect(park?.message).not.toContain('Its own Lease');
      expect(upgrade.world.order).not.toContain('suspendCronJob');
      Object.assign(upgrade.world.rights, { missing: false, blind: false });
      await upgrade.resolve('retry');
      expect((await upgrade.handle.result()).ok).toBe(true);
      expect(upgrade.world.broken).toEqual([]);
    },
  );

  test('a check that FAILED only now parks, other than for what the upgrade itself brought about', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    const failed = (id: string, message: string) => ({ id, status: 'FAILED' as const, message, remedy: 'Stop it.' });
    const { upgradeId } = await upgrade.status();
    const own = ['kube.lease', 'kube.leftover', 'kube.quota'].map((id) => failed(id, `Its own: ${upgradeId}.`));
    const another = failed('kube.leftover', 'Service shop/web is still stopped by upgrade u0000beef.');
    upgrade.world.inTheWay.push(...own, another, failed('kube.argo-cd', 'Argo CD keeps the database.'));
    await upgrade.answer('begin');
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ type: 'PreflightRefused', options: ['retry', 'rollback', 'abort'] });
    expect(park?.message).toContain('kube.argo-cd: Argo CD keeps the database. Stop it. Mend it');
    expect(park?.message).toContain('stopped by upgrade u0000beef');
    expect(park?.message).not.toContain('Its own');
    expect(upgrade.world.order).not.toContain('pauseReconciler');
    upgrade.world.inTheWay.splice(own.length);
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('another claim ends the upgrade with what was prepared put back', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, begin: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    upgrade.world.database.claim.uid = 'uid-another';
    // Nobody is asked about that first.
    upgrade.world.inTheWay.push({ id: 'target.image', status: 'FAILED', message: 'It has that image.', remedy: 'Go.' });
    await upgrade.answer('begin');
    expect(await failure(upgrade)).toMatchObject({ type: 'WrongWorld' });
    expect(upgrade.world.state).toEqual(upgrade.world.oldState());
    expect(upgrade.world.order).not.toContain('suspendCronJob');
  });
});

describe.concurrent('a target that was replaced or restarted at gate reopen', () => {
  test.each([{ pod: 'uid-pod-replaced' }, { began: '04:00' }])(
    'is verified again before it is opened: %o',
    async (as) => {
      const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
      await upgrade.until((seen) => gateRow(seen, 'reopen').state === 'open');
      Object.assign(upgrade.world.target, as);
      const before = positions(upgrade.world.order, 'fingerprint').length;
      await upgrade.answer('reopen');
      expect((await upgrade.handle.result()).ok).toBe(true);
      expect(positions(upgrade.world.order, 'fingerprint')).toHaveLength(before + 1);
      expect(upgrade.world.broken).toEqual([]);
    },
  );

  test.each([{ pod: 'uid-pod-replaced' }, { began: '04:00' }])('and has lost rows parks: %o', async (as) => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    await upgrade.until((seen) => gateRow(seen, 'reopen').state === 'open');
    Object.assign(upgrade.world.target, as, { rows: 'lost' });
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
