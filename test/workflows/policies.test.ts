/** What happens when nobody answers: policies of parks, and the downtime that the spec accepts. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { gateRow, phaseRow } from '../../src/domain/state.ts';
import { allAuto, oldWorldStands } from './expectations.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('policies');
});
afterAll(() => harness.close());

describe.concurrent('a park', () => {
  test('says what failed, how the world stands and what each answer does', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    upgrade.world.failOn('importDump', 'ImportErrors', 1);
    // The second import is the restore's.
    const trial = upgrade.world.hold('importDump');
    await trial.arrived;
    upgrade.world.faults.delete('importDump');
    trial.release();
    await upgrade.world.until(() => upgrade.world.order.includes('deployTarget'));
    upgrade.world.failOn('importDump', 'ImportErrors', 1);
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({
      phase: 'restore',
      failed: { activity: 'importDump', doing: expect.stringContaining('import') },
      policy: null,
    });
    const world = park?.world.join('\n') ?? '';
    expect(world).toContain('services are down since');
    expect(world).toContain('The new server runs on the new volume, fenced');
    expect(world).toContain('The original volume pvc-original (4711-pvcoriginal) is kept, untouched, under Retain.');
    const says = (action: string) =>
      park?.prospects.find((prospect) => prospect.action === action)?.says.join('\n') ?? '';
    expect(says('retry')).toContain('Phase restore begins again');
    expect(says('abort')).toContain('-journal');
    // What rollback is said to do is what it then does.
    const said = says('rollback');
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
    const { undone, undos } = upgrade.world.journal;
    const places = undone.map((id) => said.indexOf(undos.find((undo) => undo.id === id)?.says ?? '?'));
    expect(places.filter((place) => place === -1)).toEqual([]);
    const told = upgrade.world.told.find(({ kind }) => kind === 'park')?.text ?? '';
    expect(told).toContain('fenced');
    expect(told).toContain('retry, rollback, abort');
  });

  test('goes back by itself after the time that the policy gives people', async () => {
    const upgrade = await harness.start({
      spec: { gates: allAuto, onFailure: { backup: { after: '1s', answer: 'rollback' } } },
    });
    upgrade.world.failOn('dump');
    const { park } = await upgrade.parked();
    expect(park?.policy?.answer).toBe('rollback');
    expect(await upgrade.handle.result()).toMatchObject({
      outcome: 'rolled-back',
      why: expect.stringContaining('policy'),
    });
    oldWorldStands(upgrade);
    const status = await upgrade.status();
    expect(status.parked).toMatchObject([{ action: 'rollback', by: 'policy' }]);
    expect(status.attempts.at(-1)).toMatchObject({ how: 'policy', message: 'resolve', accepted: true });
    await keepHistory(upgrade.handle, 'rolled-back-by-policy');
  });

  test('retries by itself so often, and then waits for a person', async () => {
    const upgrade = await harness.start({
      spec: { gates: allAuto, onFailure: { default: { after: '200ms', answer: 'retry', times: 2 } } },
    });
    upgrade.world.failOn('copyIn', 'CommandFailed', 3);
    await upgrade.until(({ park, parked }) => parked.length === 2 && park?.policy === null);
    await delay(600);
    expect((await upgrade.status()).park).toMatchObject({ id: 'park-3', action: null });
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
    const status = await upgrade.status();
    expect(status.parked.map(({ by }) => by)).toEqual(['policy', 'policy', 'ada']);
    expect(phaseRow(status, 'restore').tries).toBe(4);
    expect(upgrade.world.broken).toEqual([]);
    await keepHistory(upgrade.handle, 'retried-by-policy');
  });

  test('takes a person’s answer before the policy’s', async () => {
    const upgrade = await harness.start({
      spec: { gates: allAuto, onFailure: { default: { after: '3s', answer: 'rollback' } } },
    });
    upgrade.world.failOn('dump');
    await upgrade.parked();
    await upgrade.handle.signal('resolve', { park: 'park-1', action: 'retry', by: 'ada', note: 'mended' });
    await upgrade.until(({ parked }) => parked.length === 1);
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect((await upgrade.status()).parked).toMatchObject([{ action: 'retry', by: 'ada', note: 'mended' }]);
  });

  test('has no way back by policy after the commit point', async () => {
    const upgrade = await harness.start({
      spec: { gates: allAuto, onFailure: { default: { after: '100ms', answer: 'rollback' } } },
    });
    upgrade.world.failOn('observeDatabase');
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ policy: null, options: ['retry', 'abort'] });
    await delay(500);
    await upgrade.resolve('retry');
    expect((await upgrade.handle.result()).ok).toBe(true);
  });
});

describe.concurrent('the longest downtime', () => {
  const back = { maxDowntime: '5s', onDowntimeExceeded: 'rollback' };

  test.each(['dump', 'copyIn'] as const)('goes back by itself in the midst of %s', async (name) => {
    const upgrade = await harness.start({ spec: { ...back, gates: allAuto } });
    upgrade.world.hold(name);
    const result = await upgrade.handle.result();
    expect(result).toMatchObject({
      outcome: 'rolled-back',
      why: expect.stringMatching(/longer than the 5s|Of the 5s/),
    });
    oldWorldStands(upgrade);
    const status = await upgrade.status();
    expect(status.ending).toMatchObject({ by: 'policy' });
    expect(status.attempts.at(-1)).toMatchObject({ how: 'policy', message: 'rollback', accepted: true });
    if (name === 'copyIn') await keepHistory(upgrade.handle, 'rolled-back-by-downtime');
  });

  test('goes back by itself out of a park, before the park’s own policy', async () => {
    const upgrade = await harness.start({
      spec: { ...back, gates: allAuto, onFailure: { default: { after: '1h', answer: 'retry' } } },
    });
    // What comes next after services went down.
    upgrade.world.failOn('fenceSource');
    await upgrade.parked();
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
  });

  test('goes back as soon as what was measured shows that the time does not suffice', async () => {
    const upgrade = await harness.start({
      spec: { maxDowntime: '1h', onDowntimeExceeded: 'rollback', gates: allAuto },
    });
    const { activities } = upgrade.world;
    const importDump = activities.importDump.bind(activities);
    activities.importDump = async (arg) => ({ ...(await importDump(arg)), seconds: 7200 });
    const result = await upgrade.handle.result();
    expect(result).toMatchObject({ outcome: 'rolled-back', why: expect.stringContaining('at least 2 h 0 min more') });
    expect(upgrade.world.order).not.toContain('replaceClaim');
    oldWorldStands(upgrade);
  });

  test('reminds again and again where it must not go back, and the upgrade is done', async () => {
    const upgrade = await harness.start({ spec: { maxDowntime: '1s', gates: { ...allAuto, reopen: {} } } });
    const reminders = () => upgrade.world.told.filter(({ text }) => text.includes('longer than the 1s'));
    const status = await upgrade.until((seen) => gateRow(seen, 'reopen').state === 'open' && reminders().length >= 3);
    // On a slow machine what is left of the second does not suffice before it has passed.
    const why = expect.stringMatching(/longer than the 1s|Of the 1s/);
    expect(status.budget).toMatchObject({ longest: '1s', exceeded: { why } });
    await upgrade.answer('reopen');
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect((await upgrade.status()).budget).toBeNull();
    expect(upgrade.world.broken).toEqual([]);
    await keepHistory(upgrade.handle, 'downtime-exceeded');
  });

  test('goes not back after the commit point', async () => {
    const upgrade = await harness.start({
      spec: { maxDowntime: '30s', onDowntimeExceeded: 'rollback', gates: allAuto },
    });
    const held = upgrade.world.hold('startService');
    await held.arrived;
    await upgrade.world.until(() => upgrade.world.told.some(({ text }) => text.includes('longer than the 30s')));
    held.release();
    expect((await upgrade.handle.result()).ok).toBe(true);
    expect(upgrade.world.broken).toEqual([]);
  });
});
