/** Upgrades whose spec says `clone: none`: the provider is never asked, and a person has seen what that means. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { headline } from '../../src/domain/details.ts';
import { gateQuestion } from '../../src/domain/evidence.ts';
import { gateRow, type UpgradeStatus } from '../../src/domain/state.ts';
import { allAuto, failure, oldWorldStands } from './expectations.ts';
import { startHarness, type Harness } from './harness.ts';
import { keepHistory } from './histories.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness('without-clone');
});
afterAll(() => harness.close());

const ofProvider: string[] = ['inspectVolume', 'awaitDetached', 'startClone', 'awaitClone', 'removeClone'];
const asked = { ...allAuto, begin: {}, replace: {} };

function cloneIn(status: UpgradeStatus, gate: 'begin' | 'replace'): unknown {
  return gateRow(status, gate).evidence?.facts.find(({ name }) => name === 'clone')?.value;
}

describe.concurrent('clone: none', () => {
  test('every other phase, with evidence that says plainly that there is none', async () => {
    const upgrade = await harness.start({ spec: { clone: 'none', gates: asked } });
    const begin = await upgrade.until((seen) => gateRow(seen, 'begin').state === 'open');
    expect(begin.plan?.checks).toContainEqual(
      expect.objectContaining({
        id: 'clone.none',
        status: 'WARNING',
        message: expect.stringContaining('only way back'),
      }),
    );
    expect(cloneIn(begin, 'begin')).toMatch(/^none \(the spec says clone: none\): .* only way back/);
    await upgrade.answer('begin');
    const replace = await upgrade.until((seen) => gateRow(seen, 'replace').state === 'open');
    expect(cloneIn(replace, 'replace')).toMatch(/^none \(the spec says clone: none\): .* only way back/);
    expect(gateQuestion(replace, 'replace')).toContain('there is no clone');
    expect(headline(replace)).toContain(gateQuestion(replace, 'replace'));
    expect(gateQuestion(replace, 'cleanup')).toContain('There is no clone');
    expect(upgrade.world.order).not.toContain('replaceClaim');
    await upgrade.answer('replace');
    expect(await upgrade.handle.result()).toMatchObject({ ok: true, outcome: 'upgraded' });

    const { world } = upgrade;
    expect(world.broken).toEqual([]);
    expect(world.order.filter((name) => ofProvider.includes(name))).toEqual([]);
    expect(world.state).toMatchObject({ claim: 'new', clone: null, originalVolume: false });
    const skipped = (await upgrade.status()).phases.filter(({ state }) => state === 'skipped');
    expect(skipped.map(({ name }) => name)).toEqual(['rehearse', 'clone']);
    await keepHistory(upgrade.handle, 'without-clone');
  });

  test('goes back to the original volume without asking the provider', async () => {
    const upgrade = await harness.start({ spec: { clone: 'none', gates: { ...allAuto, replace: {}, reopen: {} } } });
    await upgrade.answer('replace');
    await upgrade.answer('reopen', 'reject');
    expect(await upgrade.handle.result()).toMatchObject({ outcome: 'rolled-back', back: { volume: 'original' } });
    oldWorldStands(upgrade);
    expect(upgrade.world.order.filter((name) => ofProvider.includes(name))).toEqual([]);
    expect(upgrade.world.journal.old?.volume).toBeNull();
  });

  test('and a gate replace that passes by policy is refused', async () => {
    const upgrade = await harness.start({ spec: { clone: 'none', gates: allAuto } });
    const { type, message } = await failure(upgrade);
    expect(type).toBe('SpecInvalid');
    expect(message).toContain('a person must approve');
    expect(upgrade.world.order).toEqual(['resolveSpec']);
  });
});
