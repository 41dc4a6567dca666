import { expect, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { messageOf } from '../../src/activities/errors.ts';
import { planUpgrade, sendMessage, upgradeResult, upgradeStatus } from '../../src/client/upgrades.ts';
import type { Plan } from '../../src/domain/plan.ts';
import { openGate, type UpgradeResult } from '../../src/domain/state.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { takeSnapshot, type Scene } from '../../src/sandbox/demo/snapshot.ts';
import { between } from '../support/world.ts';
import { answer, artifactText, raiseStage, reachGate, start } from './stage.ts';
import { expectUpgraded, oldWorld, sceneOf, upgradeAll } from './world.ts';

test(
  '15, rejected at gate reopen: the old world as it was, and then straight to 18',
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(15, 5);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await oldWorld(scene);
    expect(before['version']).toMatch(/^15\./);
    const rejected = await start(on);
    await answer(on, rejected, 'begin');
    await answer(on, rejected, 'replace');
    const atReopen = await answer(on, rejected, 'reopen', 'reject');
    expect(openGate(atReopen)?.evidence?.facts).toContainEqual({ name: 'fingerprints equal', value: true });
    const result = await upgradeResult(on.session, rejected);
    expect(result).toMatchObject({ ok: false, outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
    expect(await oldWorld(scene)).toEqual(before);
    expect((await countAcknowledged(scene, on.visitor.visits.acknowledged)).missing).toBe(0);

    // An old world that only looks like it would not take the same upgrade again.
    const again = await start(on);
    const second = await upgradeAll(on, again);
    await expectUpgraded(on, again, second.before, second.scene);
  },
);

test(
  `${between}, with the original’s PV deleted, and then its volume: back on that volume, and then on its clone`,
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(between, 5);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await apart(scene);

    /** To gate reopen, where the source has been stopped for long, and back from there. */
    async function backWithout(destroy: (plan: Plan | null) => Promise<void>): Promise<UpgradeResult> {
      const rejected = await start(on);
      await answer(on, rejected, 'begin');
      await answer(on, rejected, 'replace');
      await destroy((await reachGate(on, rejected, 'reopen')).plan);
      await answer(on, rejected, 'reopen', 'reject');
      const result = await upgradeResult(on.session, rejected);
      expect(result).toMatchObject({ outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
      expect(result.back?.compared.find(({ what }) => what === 'fingerprint')?.equal).toBe(true);
      // A visitor's row is written by a service that logged in over TCP.
      const { acknowledged } = on.visitor.visits;
      const known = acknowledged.length;
      await expect.poll(() => acknowledged.length, { timeout: 60_000 }).toBeGreaterThan(known);
      expect((await countAcknowledged(scene, acknowledged)).missing).toBe(0);
      return result;
    }

    const { back: onOriginal } = await backWithout(async (plan) => {
      const name = plan?.facts?.cluster.database.volume.pv ?? '';
      await on.access.core.deletePersistentVolume({ name });
    });
    expect(onOriginal).toMatchObject({ volume: 'original-static', cloneKept: null });
    const first = await apart(scene);
    expect(first.rest).toEqual(before.rest);
    expect(first.volume).toEqual({ ...before.volume, policy: 'Retain', uid: expect.any(String) });
    expect(first.volume.uid).not.toBe(before.volume.uid);

    const { back: onClone } = await backWithout(async (plan) => {
      const { url, token } = on.sandbox.linode;
      const at = `${url}/v4/volumes/${plan?.facts?.volume?.id}`;
      expect((await fetch(at, { method: 'DELETE', headers: { authorization: `Bearer ${token}` } })).status).toBe(200);
    });
    expect(onClone).toMatchObject({ volume: 'clone' });
    const second = await apart(scene);
    expect(second.rest).toEqual(before.rest);
    expect(second.volume.policy).toBe('Retain');
    expect(second.volume.handle).not.toEqual(before.volume.handle);
  },
);

/** The old world, and apart from it the volume that it is on. */
async function apart(scene: Scene) {
  const { volume, claim, ...rest } = await oldWorld(scene);
  const { spec, labels } = claim as { spec: { volumeName?: string }; labels: unknown };
  const { volumeName: _volumeName, ...lasting } = spec;
  return { rest: { ...rest, claim: { ...lasting, labels } }, volume: volume as Record<string, unknown> };
}

test(
  '16, opened and written to: refused with counts, then back with what was lost counted and its volume kept',
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(16, 5);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await oldWorld(scene);
    const opened = await start(on);
    for (const gate of ['begin', 'replace', 'reopen'] as const) await answer(on, opened, gate);
    await reachGate(on, opened, 'cleanup');
    const target = (await takeSnapshot(scene)).volume;

    const refused = await sendMessage(on.session, opened, 'rollback', { by: 'e2e' }).then(
      () => expect.unreachable(),
      (error: unknown) => messageOf(error),
    );
    expect(refused).toMatch(/At most \d+ transactions wrote: \d+ rows inserted, .* in .*metricity.*site/);
    expect(refused).toMatch(/connected: .*metricity from bots\/metricity-/);
    expect(refused).toContain('--accept-lost-writes');
    await reachGate(on, opened, 'cleanup');

    await sendMessage(on.session, opened, 'rollback', { by: 'e2e', acceptLostWrites: true });
    const result = await upgradeResult(on.session, opened);
    expect(result).toMatchObject({ outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
    expect(await oldWorld(scene)).toEqual(before);

    // The writer goes on after the last row that it was told is committed: what lies between is what was lost.
    const lostRows = (await countAcknowledged(scene, [])).missing;
    expect(lostRows).toBeGreaterThan(3);
    const { volume, kept, lostWrites } = result.back ?? {};
    expect(volume).toBe('original');
    expect(kept?.handle).toBe(target);
    expect(lostWrites?.why).toBeNull();
    expect(lostWrites?.transactions).toBeGreaterThanOrEqual(lostRows);
    const inserted = (name: string) => lostWrites?.databases.find((one) => one.name === name)?.inserted ?? 0;
    expect(inserted('metricity')).toBeGreaterThanOrEqual(lostRows);
    expect(inserted('site')).toBeGreaterThan(0);

    const left = await on.access.core.readPersistentVolume({ name: kept?.pv ?? '' });
    expect(left.status?.phase).toBe('Released');
    expect(left.spec?.persistentVolumeReclaimPolicy).toBe('Retain');
    const page = await artifactText(on, await upgradeStatus(on.session, opened), 'report.html');
    expect(page).toContain(`kept on volume ${kept?.handle}`);
    expect(page).toContain(`At most ${lostWrites?.transactions} transactions wrote`);
  },
);
