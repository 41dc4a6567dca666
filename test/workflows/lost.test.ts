/** A pod that goes in the middle of the work: the phase begins again by itself, twice, before it asks a person. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { phaseRow } from '../../src/domain/state.ts';
import { allAuto } from './expectations.ts';
import type { ActivityName } from './fake-world.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('lost');
});
afterAll(() => harness.close());

describe.concurrent('lost', () => {
  test('an import that is lost after it began is begun in an empty server, in trial and in restore', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('importDump', 'JobLost', 2, true);
    await upgrade.world.until(() => upgrade.world.order.includes('deployTarget'));
    upgrade.world.failOn('importDump', 'PodLost', 2, true);
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    // The world refuses an import into a server that is not empty.
    expect(upgrade.world.broken).toEqual([]);
    const status = await upgrade.status();
    expect(status.parked).toEqual([]);
    expect(phaseRow(status, 'trial').tries).toBe(3);
    expect(phaseRow(status, 'restore').tries).toBe(3);
    expect(upgrade.world.order.filter((name) => name === 'emptyTarget')).toHaveLength(2);
    expect(status.notes.filter((text) => text.includes('begun again by itself'))).toEqual([
      'trial was begun again by itself (1 of 2 times): importDump failed on purpose, after it took effect',
      'trial was begun again by itself (2 of 2 times): importDump failed on purpose, after it took effect',
      'restore was begun again by itself (1 of 2 times): importDump failed on purpose, after it took effect',
      'restore was begun again by itself (2 of 2 times): importDump failed on purpose, after it took effect',
    ]);
    await keepHistory(upgrade.handle, 'lost-imports');
  });

  test.each([
    ['prepare', 'checkCandidate'],
    ['quiesce', 'fenceSource'],
    ['backup', 'copyOut'],
    ['backup', 'dump'],
    ['trial', 'tryLogins'],
    ['restore', 'copyIn'],
    ['restore', 'carrySettings'],
    ['verify', 'analyze'],
    ['verify', 'otherSessions'],
  ] as const satisfies [string, ActivityName][])('%s goes on when the pod is lost in %s', async (name, activity) => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn(activity, 'PodLost', 1, true);
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(upgrade.world.broken).toEqual([]);
    const status = await upgrade.status();
    expect(status.parked).toEqual([]);
    expect(phaseRow(status, name).tries).toBe(2);
  });

  test('a scratch volume that is emptied under backup and trial has both begin again, the trial with the new dump', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const { world } = upgrade;
    world.failOn('copyOut', 'ScratchLost', 1);
    world.failOn('importDump', 'ScratchLost', 1);
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(world.broken).toEqual([]);
    const status = await upgrade.status();
    expect(status.parked).toEqual([]);
    expect(phaseRow(status, 'backup').tries).toBe(2);
    expect(phaseRow(status, 'trial').tries).toBe(2);
    const { order } = world;
    expect(order.filter((name) => name === 'dump')).toHaveLength(2);
    const trial = order.findIndex((name, index) => name === 'importDump' && index > order.indexOf('importDump'));
    expect(order.lastIndexOf('dump')).toBeLessThan(trial);
    expect(order.lastIndexOf('copyOut', trial)).toBeGreaterThan(order.lastIndexOf('dump'));
    await keepHistory(upgrade.handle, 'lost-scratch');
  });

  test('a trial that lost its scratch volume gets the dump from the artifact store', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const { world } = upgrade;
    const compared = world.hold('compareFingerprints');
    await compared.arrived;
    world.failOn('compareFingerprints', 'JobLost', 1);
    compared.release();
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(world.broken).toEqual([]);
    const { order } = world;
    const [first, again] = order.flatMap((name, index) => (name === 'importDump' ? [index] : []));
    expect(order.slice(first, again)).toContain('copyIn');
    expect(order.indexOf('copyIn')).toBeGreaterThan(order.indexOf('compareFingerprints'));
  });

  test('a source that holds other data after it was restarted is dumped again, and the trial takes that dump', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const { world } = upgrade;
    const copy = world.hold('copyOut');
    const imported = world.hold('importDump');
    await Promise.all([copy.arrived, imported.arrived]);
    // As its unlogged tables, which a crash empties.
    world.writeToSource('rows-v2');
    world.failOn('copyOut', 'ServerLost', 1);
    imported.release();
    copy.release();
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(world.broken).toEqual([]);
    const status = await upgrade.status();
    expect(status.parked).toEqual([]);
    expect(phaseRow(status, 'backup').tries).toBe(2);
    expect(world.order.filter((name) => name === 'importDump')).toHaveLength(3);
  });

  test('a trial that looks for its dump when the backup is begun again waits for the next one', async ({
    expect: expects,
  }) => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const { world } = upgrade;
    const imported = world.hold('importDump');
    const copied = world.hold('copyOut');
    await Promise.all([imported.arrived, copied.arrived]);
    world.failOn('journalOld');
    copied.release();
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase: 'backup' });
    const found = world.hold('copyIn');
    world.failOn('importDump', 'PodLost');
    imported.release();
    await found.arrived;
    const dumped = world.hold('dump');
    await upgrade.resolve('retry');
    await dumped.arrived;
    found.release();
    // The trial has its answer before there is the next dump.
    const isFound = async () => {
      const { events } = await upgrade.handle.fetchHistory();
      const call = events?.find((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === 'copyIn');
      const ends = events?.map((event) => event.activityTaskCompletedEventAttributes?.scheduledEventId?.toString());
      return ends?.includes(call?.eventId?.toString());
    };
    await expects.poll(isFound, { timeout: 60_000 }).toBe(true);
    await upgrade.status();
    dumped.release();
    await upgrade.until(({ stage }) => stage === 'ended');
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(world.broken).toEqual([]);
  });

  test('halt looks at the source again from a new candidate, which the fence lets in', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const copy = upgrade.world.hold('copyOut');
    await copy.arrived;
    const look = upgrade.world.hold('nextTransaction');
    copy.release();
    await look.arrived;
    upgrade.world.failOn('nextTransaction', 'PodLost', 1);
    const { order } = upgrade.world;
    const since = order.length;
    look.release();
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });
    expect(upgrade.world.broken).toEqual([]);
    expect(phaseRow(await upgrade.status(), 'halt').tries).toBe(2);
    const again = order.slice(since, order.indexOf('haltDatabase'));
    const places = ['createCandidate', 'fenceSource', 'nextTransaction'].map((name) =>
      again.findIndex((one) => one === name),
    );
    expect(places).toEqual(places.toSorted((a, b) => a - b));
    expect(places).not.toContain(-1);
  });

  test('a pod that goes a third time is a question', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('importDump', 'PodLost', 3, true);
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase: 'trial', type: 'PodLost' });
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });

  test('going back does not wait for a phase that begins again', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const imported = upgrade.world.hold('importDump');
    await imported.arrived;
    await upgrade.handle.signal('rollback', { by: 'ada' });
    imported.release();
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    expect((await upgrade.status()).notes.join()).not.toContain('by itself');
  });
});
