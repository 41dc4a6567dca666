/** A failure in each phase, and each answer to it. */
import { setTimeout as delay } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { phaseRow } from '../../src/domain/state.ts';
import { allAuto, failure, oldWorldStands, refusal } from './expectations.ts';
import type { ActivityName } from './fake-world.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('parked');
});
afterAll(() => harness.close());

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
  restore: 'carrySettings',
  verify: 'analyze',
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
    if (phase === 'restore') await keepHistory(upgrade.handle, 'aborted');
  });

  test('a source that changed after its backup is not halted', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const copy = upgrade.world.hold('copyOut');
    await copy.arrived;
    const look = upgrade.world.hold('nextTransaction');
    copy.release();
    await look.arrived;
    expect(phaseRow(await upgrade.status(), 'backup').state).toBe('done');
    upgrade.world.writeToSource('rows-v2');
    look.release();
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ phase: 'halt', type: 'SourceNotQuiet' });
    expect(upgrade.world.order).not.toContain('haltDatabase');
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
    await keepHistory(upgrade.handle, 'changed-before-halt');
  });

  test('a source that changed while halt was parked is not halted', async () => {
    const upgrade = await harness.start({ spec: { gates: allAuto } });
    const { world } = upgrade;
    world.failOn('haltDatabase', 'NotStopped');
    await upgrade.parked();
    world.writeToSource('rows-v2');
    await upgrade.resolve('retry');
    const { park } = await upgrade.parked();
    expect(park).toMatchObject({ id: 'park-2', phase: 'halt', type: 'SourceNotQuiet' });
    expect(world.order.filter((name) => name === 'haltDatabase')).toHaveLength(1);
    await upgrade.resolve('rollback');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back' });
    oldWorldStands(upgrade);
    await keepHistory(upgrade.handle, 'parked-and-rolled-back');
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
