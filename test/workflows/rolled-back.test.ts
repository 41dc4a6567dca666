/** The ways back, and the upgrades that never begin. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { GateName, PhaseName } from '../../src/domain/phases.ts';
import { gateRow, type UpgradeResult, type UpgradeStatus } from '../../src/domain/state.ts';
import { undoOrder } from '../../src/domain/undo.ts';
import { allAuto, failure, oldWorldStands, refusal } from './expectations.ts';
import type { ActivityName, FakeWorld } from './fake-world.ts';
import { startHarness, type Harness, type Upgrade } from './harness.ts';
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

  /** One call of each phase that changes something before the commit point, and of some in their course. */
  const beforeCommit: [PhaseName, ActivityName][] = [
    ['prepare', 'createScratch'],
    ['rehearse', 'importDump'],
    ['maintain', 'setRoute'],
    ['quiesce', 'stopService'],
    ['backup', 'dump'],
    ['backup', 'copyOut'],
    ['trial', 'importDump'],
    ['halt', 'haltDatabase'],
    ['clone', 'awaitClone'],
    ['replace', 'replaceClaim'],
    ['deploy', 'deployTarget'],
    ['restore', 'importDump'],
    ['verify', 'analyze'],
  ];
  test.each(beforeCommit)('rollback in %s, in the midst of %s', async (phase, name) => {
    const upgrade = await harness.start({
      spec: { rehearse: phase === 'rehearse', gates: { ...allAuto, replace: {} } },
    });
    // The trial imports, too, before that gate.
    if (phase === 'restore') await upgrade.until((status) => gateRow(status, 'replace').state === 'open');
    const held = upgrade.world.hold(name);
    if (['replace', 'deploy', 'restore', 'verify'].includes(phase)) await upgrade.answer('replace');
    await held.arrived;
    expect((await upgrade.status()).phases.find((row) => row.name === phase)?.state).toBe('running');
    const says = await upgrade.handle.executeUpdate<string, [unknown]>('rollback', {
      args: [{ by: 'ada', note: 'the moon is full' }],
    });
    expect(says).toContain('Rolling back');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back', why: 'the moon is full' });
    oldWorldStands(upgrade);
    await keepHistory(upgrade.handle, `rolled-back-in-${phase}`);
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

  test('cancel and rollback after the commit point are refused with what they would lose, and the upgrade goes on', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const held = upgrade.world.hold('startService');
    await held.arrived;
    await upgrade.handle.cancel();
    const said = await refusal(upgrade.handle.executeUpdate<string, [unknown]>('rollback', { args: [{ by: 'ada' }] }));
    expect(said).toContain(
      'going back would lose what was written since. At most 7 transactions wrote: 5 rows inserted',
    );
    expect(said).toContain('connected: app from web/site');
    expect(said).toContain('acceptLostWrites');
    held.release();
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, back: null });
    const { attempts } = await upgrade.status();
    expect(
      attempts
        .filter(({ accepted }) => !accepted)
        .map(({ message }) => message)
        .toSorted(),
    ).toEqual(['cancel', 'rollback']);
    expect(upgrade.world.broken).toEqual([]);
  });

  const afterCommit: [PhaseName, ActivityName][] = [
    ['reopen', 'openTarget'],
    ['resume', 'startService'],
    ['unmaintain', 'resumeCronJob'],
    ['observe', 'observeDatabase'],
    ['report', 'writeReport'],
  ];
  test.each(afterCommit)(
    'with acceptLostWrites also after the commit point, in %s, in the midst of %s',
    async (phase, name) => {
      const upgrade = await harness.start({ spec: { gates: allAuto } });
      const held = upgrade.world.hold(name);
      await held.arrived;
      expect((await upgrade.status()).phases.find((row) => row.name === phase)?.state).toBe('running');
      await upgrade.handle.executeUpdate<string, [unknown]>('rollback', {
        args: [{ by: 'ada', acceptLostWrites: true }],
      });
      const result = await upgrade.handle.result();
      oldWorldStands(upgrade);
      const { world } = upgrade;
      expect(result).toMatchObject({
        outcome: 'rolled-back',
        servicesRestored: true,
        routesRestored: true,
        back: {
          volume: 'original',
          kept: { handle: '4712-pvcnew' },
          lostWrites: { transactions: 7, clients: ['app from web/site'] },
        },
      });
      expect(world.journal.back).toBe(true);
      const taken = world.order.slice(world.order.indexOf('journalBack'));
      expect(taken.indexOf('pauseReconciler')).toBeGreaterThan(0);
      expect(taken.indexOf('pauseReconciler')).toBeLessThan(taken.indexOf('stopService'));
      expect(taken.indexOf('stopService')).toBeLessThan(taken.indexOf('closeTarget'));
      expect(taken.indexOf('closeTarget')).toBeLessThan(taken.indexOf('restoreTemplate'));
      await keepHistory(upgrade.handle, `rolled-back-in-${phase}`);
    },
  );

  test('from gate cleanup, until its first deletion', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, cleanup: {} } } });
    await upgrade.world.until(() => upgrade.world.told.some(({ text }) => text.includes('gate cleanup:')));
    await upgrade.handle.executeUpdate<string, [unknown]>('rollback', {
      args: [{ by: 'ada', acceptLostWrites: true }],
    });
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
    await keepHistory(upgrade.handle, 'rolled-back-at-cleanup');

    const late = await harness.start({ spec: { gates: { ...allAuto, cleanup: {} } } });
    const held = late.world.hold('removeOriginal');
    await late.answer('cleanup');
    await held.arrived;
    const send = late.handle.executeUpdate<string, [unknown]>('rollback', {
      args: [{ by: 'a', acceptLostWrites: true }],
    });
    expect(await refusal(send)).toContain('Cleanup has begun');
    held.release();
    expect((await late.handle.result()).ok).toBe(true);
  });

  test('from the retention time, with what was off before the upgrade and was switched on since', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, cleanup: {} } } });
    const { world } = upgrade;
    const { namespace } = world.database.workload;
    await world.until(() => world.told.some(({ text }) => text.includes('gate cleanup:')));
    world.state.counts.set(`${namespace}/sleeping`, 3);
    world.state.suspended.set(`${namespace}/resting`, false);
    await upgrade.handle.executeUpdate<string, [unknown]>('rollback', {
      args: [{ by: 'ada', acceptLostWrites: true }],
    });
    const { back } = await upgrade.handle.result();
    oldWorldStands(upgrade);
    const names = [`CronJob ${namespace}/resting`, `StatefulSet ${namespace}/sleeping (3 replicas)`];
    expect(back?.switchedOff.toSorted()).toEqual(names);
    expect((await upgrade.status()).notes).toContainEqual(expect.stringMatching(/and off again: .*sleeping/));
    await keepHistory(upgrade.handle, 'rolled-back-with-more-on');
  });

  test('what is lost is in the journal before anything is put back', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, cleanup: {} } } });
    const { world } = upgrade;
    await world.until(() => world.told.some(({ text }) => text.includes('gate cleanup:')));
    world.failOn('restoreTemplate');
    await upgrade.handle.executeUpdate<string, [unknown]>('rollback', {
      args: [{ by: 'ada', acceptLostWrites: true }],
    });
    await world.until(() => world.told.some(({ kind }) => kind === 'park'));
    expect(world.journal.undone).toEqual([]);
    expect(world.journal.lost).toMatchObject({ transactions: 7, clients: ['app from web/site'] });
    await upgrade.resolve('retry');
    const { back } = await upgrade.handle.result();
    expect(world.journal.lost).toEqual(back?.lostWrites);
    oldWorldStands(upgrade);
    await keepHistory(upgrade.handle, 'rolled-back-with-its-loss-kept');
  });

  test('what is not as before is named, and is not called restored', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    upgrade.world.scaleWhenBack('web');
    await upgrade.answer('reopen', 'reject');
    const result = await upgrade.handle.result();
    expect(result).toMatchObject({ outcome: 'rolled-back', servicesRestored: false, routesRestored: true });
    expect((await upgrade.status()).notes).toContainEqual(expect.stringContaining('web: was 2, is 3'));
  });

  test('a fingerprint that differs, and one that maxDowntime has no room for', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    await upgrade.world.until(() => upgrade.world.told.some(({ text }) => text.includes('gate reopen:')));
    upgrade.world.writeToSource('rows-v2');
    await upgrade.answer('reopen', 'reject');
    await upgrade.handle.result();
    const differs = (await upgrade.status()).back?.compared.find(({ what }) => what === 'fingerprint');
    expect(differs).toMatchObject({ area: 'data', equal: false });
    // The clone is the only other copy of those blocks.
    const { world } = upgrade;
    const label = world.journal.undos.flatMap((undo) => (undo.activity === 'removeClone' ? [undo.args.label] : []))[0];
    const { back, notes } = await upgrade.status();
    expect(back?.cloneKept).toBe(label);
    expect(notes).toContainEqual(expect.stringContaining(`the clone ${label} is kept`));
    expect(world.state).toEqual({ ...world.oldState(), clone: 'active' });
    // Before the fence: whoever goes on from there does not prove the data again.
    const { undone, undos } = world.journal;
    const fence = undos.find(({ activity }) => activity === 'liftSourceFence')?.id;
    expect(undone.indexOf('clone/volume')).toBeLessThan(undone.indexOf(fence!));
    expect(undone.filter((id) => id === 'clone/volume')).toHaveLength(1);

    const short = await harness.start({ spec: { maxDowntime: '500ms', gates: { ...allAuto, reopen: {} } } });
    await short.answer('reopen', 'reject');
    const result = await short.handle.result();
    expect(result.back?.compared.filter(({ area }) => area === 'data')).toMatchObject([
      { what: 'fingerprint', equal: null, found: expect.stringContaining('of maxDowntime 0 s are left') },
      { what: 'next transaction id since the fingerprint', equal: true },
    ]);
    expect(result.back?.cloneKept).toBeNull();
    oldWorldStands(short);
  });

  test.each([
    ['nobody can look at', (world: FakeWorld) => world.housekeeping(), null],
    ['are another server’s', (world: FakeWorld) => world.replaceSource(), false],
  ])('data that %s keep the clone', async (_what, change, equal) => {
    // No time for a fingerprint: only the next transaction id could prove it.
    const upgrade = await harness.start({ spec: { maxDowntime: '500ms', gates: { ...allAuto, reopen: {} } } });
    await upgrade.world.until(() => upgrade.world.told.some(({ text }) => text.includes('gate reopen:')));
    change(upgrade.world);
    await upgrade.answer('reopen', 'reject');
    const { back } = await upgrade.handle.result();
    const seen = back?.compared.filter(({ area }) => area === 'data').map((row) => row.equal);
    expect(new Set(seen)).toEqual(new Set([equal]));
    expect(upgrade.world.order).not.toContain('removeClone');
    expect(upgrade.world.state).toEqual({ ...upgrade.world.oldState(), clone: 'active' });
    const clones = upgrade.world.journal.undos.flatMap((undo) =>
      undo.activity === 'removeClone' ? [undo.args.label] : [],
    );
    expect([back?.cloneKept]).toEqual(clones);
  });

  test('a database that is on its clone keeps it', async () => {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    upgrade.world.going.volume = 'clone';
    await upgrade.answer('reopen', 'reject');
    const result = await upgrade.handle.result();
    expect(result.back?.volume).toBe('clone');
    expect(upgrade.world.state.clone).toBe('active');
    expect(upgrade.world.broken).toEqual([]);
    expect(upgrade.world.order).not.toContain('removeClone');
    // Before the rebind itself: whoever goes on from there finds it ticked off.
    const ids = upgrade.world.journal.undone;
    expect(ids.indexOf('clone/volume')).toBeLessThan(ids.indexOf('replace/claim'));
  });

  test('a lost answer of beginJournal leaves no open journal', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('beginJournal', 'CommandFailed', 1, true);
    await upgrade.parked();
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('a lost answer of takeLease, and an abort: what lets go of the Lease is named', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('takeLease', 'CommandFailed', 1, true);
    await upgrade.parked();
    await upgrade.resolve('abort');
    const { type, message } = await failure(upgrade);
    expect(type).toBe('Aborted');
    expect(message).toMatch(/pgleap recover rolled-back-\d+\/postgres$/);
    expect(upgrade.world.state.lease).not.toBeNull();
    expect(upgrade.world.journal.begun).toBe(false);
  });

  type EventId = NonNullable<Awaited<ReturnType<Upgrade['handle']['fetchHistory']>>['events']>[number]['eventId'];

  async function resetTo(upgrade: Upgrade, event: EventId) {
    const { workflowId } = upgrade.handle;
    const { workflowService, options } = harness.env.client;
    await workflowService.resetWorkflowExecution({
      namespace: options.namespace,
      workflowExecution: { workflowId },
      reason: 'by a test',
      requestId: workflowId,
      ...(event ? { workflowTaskFinishEventId: event } : {}),
      // Without the yes that came after it.
      resetReapplyType: 2,
    });
    const again = harness.env.client.workflow.getHandle(workflowId);
    return { again, status: () => again.query<UpgradeStatus>('status') };
  }

  /** Goes on to gate reopen, and forgets all since `activity` was asked for. */
  async function resetBefore(activity: ActivityName) {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, reopen: {} } } });
    await upgrade.until((status) => gateRow(status, 'reopen').state === 'open');
    const { events } = await upgrade.handle.fetchHistory();
    const asked = events
      ?.map((event) => event.activityTaskScheduledEventAttributes)
      .find((attributes) => attributes?.activityType?.name === activity);
    return { upgrade, reset: () => resetTo(upgrade, asked?.workflowTaskCompletedEventId) };
  }

  test.each(['inspectCluster', 'inspectSource'] as const)(
    'a workflow that was reset to before its plan, at %s, names what puts back what it had changed',
    async (activity) => {
      const { upgrade, reset } = await resetBefore(activity);
      const { world } = upgrade;
      // As the source says of itself where the cluster was looked at before.
      if (activity === 'inspectSource') world.failOn(activity, 'Unreachable');
      const { again } = await reset();
      const ended = await again.result().catch((error: unknown) => error);
      expect(ended).toMatchObject({ cause: { type: 'Refused' } });
      const { message } = (ended as { cause: Error }).cause;
      expect(message).not.toContain('nothing was changed');
      expect(message).toMatch(/pgleap recover rolled-back-\d+\/postgres$/);
      expect(world.state.claim).toBe('new');
      expect(world.state.lease).not.toBeNull();
      expect(world.journal.closed).toBeNull();
      expect(world.journal.undone).toEqual([]);
      expect(world.broken).toEqual([]);
    },
  );

  test('a workflow that was reset to before it took the Lease undoes what its journal knows', async ({
    expect: expects,
  }) => {
    const { upgrade, reset } = await resetBefore('takeLease');
    upgrade.world.failOn('takeLease');
    const { again, status } = await reset();
    await expects.poll(async () => (await status()).park?.phase, { timeout: 60_000 }).toBe('prepare');
    const { park } = await status();
    await again.executeUpdate('resolve', { args: [{ park: park?.id, action: 'rollback', by: 'ada' }] });
    expect(await again.result()).toMatchObject({ outcome: 'rolled-back', servicesRestored: true });
    // It knows of no fingerprint to prove the data with.
    const { world } = upgrade;
    expect(world.state).toEqual({ ...world.oldState(), clone: 'active' });
    expect([world.broken, world.journal.closed]).toEqual([[], 'rolled-back']);
    await keepHistory(again, 'reset-to-prepare');
  });

  test('cancelled before its plan was made again, it does not say that it is rolled back', async () => {
    const { upgrade, reset } = await resetBefore('inspectCluster');
    const { arrived, release } = upgrade.world.hold('inspectCluster');
    const { again } = await reset();
    await arrived;
    await again.cancel();
    await expect(again.result()).rejects.toMatchObject({
      cause: { type: 'Refused', message: expect.stringMatching(/was cancelled[^]*pgleap recover /) },
    });
    release();
    expect(upgrade.world.state.claim).toBe('new');
    await keepHistory(again, 'reset-to-preflight');
  });

  test('a workflow that was reset to before it took the Lease, when all was over, leaves its journal closed', async () => {
    const { upgrade, reset } = await resetBefore('takeLease');
    await upgrade.answer('reopen');
    await upgrade.handle.result();
    const { world } = upgrade;
    const before = structuredClone(world.state);
    world.failOn('takeLease', 'PreflightRefused');
    const { again } = await reset();
    await expect(again.result()).rejects.toMatchObject({ cause: { type: 'PreflightRefused' } });
    expect([world.journal.closed, world.state]).toEqual(['upgraded', before]);
  });

  /** Asks at `gate` and at `later`, says yes to the first, and forgets that when the other is open. */
  async function resetToGate(gate: GateName, later: GateName, expects: typeof expect) {
    const upgrade = await harness.start({ spec: { gates: { ...allAuto, [gate]: {}, [later]: {} } } });
    await upgrade.until((status) => gateRow(status, gate).state === 'open');
    const { events = [] } = await upgrade.handle.fetchHistory();
    const done = events?.filter((event) => event.workflowTaskCompletedEventAttributes).at(-1)?.eventId;
    await upgrade.answer(gate);
    await upgrade.until((status) => gateRow(status, later).state === 'open');
    const { again, status } = await resetTo(upgrade, done);
    await expects.poll(async () => gateRow(await status(), gate).state, { timeout: 60_000 }).toBe('open');
    return { upgrade, again, status };
  }

  test('a workflow that was reset to before its changes undoes what only the journal knows', async ({
    expect: expects,
  }) => {
    const { upgrade, again, status } = await resetToGate('begin', 'reopen', expects);
    expect((await status()).undo.map(({ activity }) => activity)).not.toContain('rebindOriginal');
    expect(upgrade.world.state.claim).toBe('new');
    await again.executeUpdate('reject', { args: [{ gate: 'begin', by: 'ada' }] });
    const result = (await again.result()) as UpgradeResult;
    expect(result).toMatchObject({ outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
    expect((await status()).notes.join()).toMatch(
      /The journal knows of \d+ changes that this workflow, reset to before/,
    );
    // It knows of no fingerprint to prove the data with.
    const { world } = upgrade;
    expect(result.back?.cloneKept).not.toBeNull();
    expect(world.state).toEqual({ ...world.oldState(), clone: 'active' });
    expect([world.broken, world.journal.closed]).toEqual([[], 'rolled-back']);
    await keepHistory(again, 'reset-to-begin');
  });

  describe('reset to before the commit point it passed, a workflow', () => {
    /** Passes the commit point and forgets it. */
    async function reset(expects: typeof expect) {
      const all = await resetToGate('reopen', 'cleanup', expects);
      expect((await all.status()).committedAt).toBeNull();
      return all;
    }

    test('does not go back, and names what does', async ({ expect: expects }) => {
      const { upgrade, again, status } = await reset(expects);
      await again.executeUpdate('reject', { args: [{ gate: 'reopen', by: 'ada' }] });
      await expects.poll(async () => (await status()).park?.type, { timeout: 60_000 }).toBe('Refused');
      const { park } = await status();
      expect(park?.message).toMatch(/has been open since .* pgleap recover rolled-back-\d+\/postgres$/);
      await again.executeUpdate('resolve', { args: [{ park: park?.id, action: 'abort', by: 'ada' }] });
      await expect(again.result()).rejects.toMatchObject({ cause: { type: 'Aborted' } });
      expect(upgrade.world.state.claim).toBe('new');
      expect(upgrade.world.order).not.toContain('restoreTemplate');
      expect(upgrade.world.broken).toEqual([]);
      await keepHistory(again, 'reset-to-reopen-and-rejected');
    });

    test('goes on when it is approved, without fencing and counting anew', async ({ expect: expects }) => {
      const { upgrade, again, status } = await reset(expects);
      const calls = () => upgrade.world.order.filter((name) => /^(deployTarget|countWrites|sweepTarget)$/.test(name));
      const before = calls();
      const approve = async (gate: 'reopen' | 'cleanup') => {
        upgrade.world.approvals.add(gate);
        const evidence = gateRow(await status(), gate).evidence?.hash;
        await again.executeUpdate('approve', { args: [{ gate, by: 'ada', evidence }] });
      };
      await approve('reopen');
      await expects.poll(async () => gateRow(await status(), 'cleanup').state, { timeout: 60_000 }).toBe('open');
      expect(calls()).toEqual(before);
      const { committedAt, notes } = await status();
      expect(committedAt).toBe('2026-01-01T00:00:00Z');
      expect(notes.join()).toContain('was reset to before that');
      await approve('cleanup');
      expect(await again.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
      expect(upgrade.world.broken).toEqual([]);
      await keepHistory(again, 'reset-to-reopen');
    });
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
    await keepHistory(upgrade.handle, 'undo-retried');
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
