import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { SeenFile } from '../../src/client/recover-artifacts.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { describeUpgrade, planUpgrade, sendMessage } from '../../src/client/upgrades.ts';
import type { Back } from '../../src/domain/old-world.ts';
import { phaseRow } from '../../src/domain/state.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { between } from '../support/world.ts';
import { answer, follow, jobBegun, raiseStage, reachGate, recover, start, type Stage } from './stage.ts';
import { oldWorld, sceneOf } from './world.ts';

const terminate = (on: Stage, workflowId: string) => on.session.client.workflow.getHandle(workflowId).terminate();

/** Resolves while `activity` runs, whether or not it has measured anything. */
async function whileUnderWay(on: Stage, workflowId: string, activity: string): Promise<void> {
  const deadline = Date.now() + 90_000;
  for (;;) {
    const { activities, state } = await describeUpgrade(on.session, workflowId);
    if (activities.some(({ name }) => name === activity)) return;
    if (state !== 'RUNNING' || Date.now() > deadline) throw new Error(`${activity} was never seen running`);
  }
}

/** A recovery that is killed as soon as it says that it begins with `point`. */
async function killRecovering(on: Stage, point: string): Promise<void> {
  const { child } = on.pgleap('recover', 'databases/postgres', '--yes', '--json');
  let said = '';
  child.stderr?.on('data', (chunk: Buffer) => (said += chunk.toString()));
  while (!said.includes(point)) {
    if (child.exitCode !== null) throw new Error(`it ended: ${said}`);
    await sleep(20);
  }
  const killed = once(child, 'exit');
  child.kill('SIGKILL');
  await killed;
}

test(
  'terminated at one point after the other before the commit point: the old world by its journal',
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(between, 20);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await oldWorld(scene);

    const quiesced = await start(on);
    await answer(on, quiesced, 'begin');
    await jobBegun(on, quiesced, 'candidate', 'dump-dump-1');
    await terminate(on, quiesced);
    const shown = await recover(on, 0);
    expect(shown).toMatchObject({ changed: false, recovery: { direction: 'back', workflow: 'terminated' } });
    const { ok, outcome, differences } = await recover(on, 0, '--yes');
    expect([ok, outcome]).toEqual([true, 'rolled-back']);
    // Whether the backup had its fingerprint already is a matter of moments.
    expect((differences as string[]).filter((one) => !one.includes('none was taken before'))).toEqual([]);
    expect(await oldWorld(scene)).toEqual(before);
    expect(await recover(on, 6, '--yes')).toMatchObject({ error: { exit: 'notFound' } });

    const halted = await start(on);
    await answer(on, halted, 'begin');
    await reachGate(on, halted, 'replace');
    expect(await recover(on, 7, '--yes')).toMatchObject({ ok: false, error: { exit: 'alreadyRunning' } });
    await terminate(on, halted);
    // The artifact folder cannot take its account of it, which must hold nothing else up.
    const { recovery, files } = (await recover(on, 0)) as { recovery: { artifacts: string }; files: SeenFile[] };
    const proof = ['dump.sql.zst', 'fingerprint-source.txt'];
    const compared = (seen: SeenFile[]) => proof.map((one) => seen.find(({ name }) => name === one)?.compared);
    expect(compared(files)).toEqual(['agrees', 'agrees']);
    await mkdir(path.join(recovery.artifacts, 'recover.json'));
    const back = await recover(on, 0, '--yes');
    expect(compared(back['files'] as SeenFile[])).toEqual(['unchecked', 'unchecked']);
    expect(back).toMatchObject({ ok: true, outcome: 'rolled-back', differences: [], report: null });
    expect(await oldWorld(scene)).toEqual(before);

    const restoring = await start(on);
    await answer(on, restoring, 'begin');
    await answer(on, restoring, 'replace');
    await jobBegun(on, restoring, 'target', 'import-restore-1');
    await terminate(on, restoring);
    // Killed when it has begun to put things back, and once the fence is lifted: the next one goes on.
    for (const point of ['undo: bind', 'undo: web/site back to']) await killRecovering(on, point);
    const last = await recover(on, 0, '--yes');
    expect(last).toMatchObject({ ok: true, outcome: 'rolled-back', back: { volume: 'original', kept: null } });
    expect(last['differences']).toEqual([expect.stringMatching(/^fingerprint: not seen \(an earlier run lifted/)]);
    expect(last['before']).toContainEqual(expect.stringMatching(/^bind .* to the original volume/));
    expect(await oldWorld(scene)).toEqual(before);
    expect((await countAcknowledged(scene, on.visitor.visits.acknowledged)).missing).toBe(0);
  },
);

test(
  'terminated while it went back after the commit point, and killed after that: the old world by its journal',
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(between, 5);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await oldWorld(scene);
    const opened = await start(on);
    for (const gate of ['begin', 'replace', 'reopen'] as const) await answer(on, opened, gate);
    await reachGate(on, opened, 'cleanup');
    const target = (await takeSnapshot(scene)).volume;

    await sendMessage(on.session, opened, 'rollback', { by: 'e2e', acceptLostWrites: true });
    await whileUnderWay(on, opened, 'stopService');
    await terminate(on, opened);
    expect(await recover(on, 0)).toMatchObject({
      changed: false,
      recovery: { direction: 'back', workflow: 'terminated', committedAt: expect.any(String) },
    });
    for (const point of ['fence the target', 'undo: bind']) await killRecovering(on, point);
    const last = await recover(on, 0, '--yes');
    expect(last).toMatchObject({ ok: true, outcome: 'rolled-back' });
    // The candidate is gone since gate reopen, and on a slow machine the server's housekeeping has taken an id meanwhile.
    const unseen =
      /^(fingerprint: not seen \(pod .*-candidate is gone\)|next transaction id since .*: housekeeping takes ids, too\))$/;
    expect((last['differences'] as string[]).filter((one) => !unseen.test(one))).toEqual([]);
    const { volume, kept, lostWrites } = last['back'] as Back;
    expect([volume, kept?.handle]).toEqual(['original', target]);
    // Counted by the run that was killed, before the target went: the journal has it.
    expect(lostWrites).toMatchObject({ transactions: expect.any(Number), why: null });
    expect(last['recovery']).toMatchObject({ lost: lostWrites });
    expect(await oldWorld(scene)).toEqual(before);
    const left = await on.access.core.readPersistentVolume({ name: kept?.pv ?? '' });
    expect([left.status?.phase, left.spec?.persistentVolumeReclaimPolicy]).toEqual(['Released', 'Retain']);
  },
);

test('terminated just after the commit point: the new world by its journal', { timeout: 600_000 }, async () => {
  const on = await raiseStage(16, 5);
  await on.startWorker();
  const opened = await start(on);
  const scene = sceneOf(on, (await reachGate(on, opened, 'begin')).plan);
  const before = await takeSnapshot(scene);
  for (const gate of ['begin', 'replace', 'reopen'] as const) await answer(on, opened, gate);
  await follow(on, opened, 'resume', (status) => phaseRow(status, 'reopen').state === 'done');
  await terminate(on, opened);
  await killRecovering(on, 'open the target');
  const finished = await recover(on, 0, '--yes');
  expect(finished).toMatchObject({ ok: true, outcome: 'upgraded', differences: [], report: expect.any(String) });
  const after = await takeSnapshot(scene);
  expect(after.version).toMatch(/^18\./);
  expect([after.tables, after.roles, after.routes]).toEqual([before.tables, before.roles, before.routes]);
  expect(after.services).toMatchObject({
    'Deployment web/site': '2 of 2',
    'Deployment bots/metricity': '1 of 1',
    'CronJob databases/blackbox': 'scheduled',
  });
  await on.visitor.stop();
  expect((await countAcknowledged(scene, on.visitor.visits.acknowledged)).missing).toBe(0);
});
