import { createReadStream, createWriteStream } from 'node:fs';
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { execInPod, runInPod } from '../src/activities/kubernetes/exec.ts';
import { readSpecFile } from '../src/client/spec-file.ts';
import { startUpgrade, upgradeResult, upgradeStatus } from '../src/client/upgrades.ts';
import type { PodRef } from '../src/domain/facts.ts';
import type { PhaseName } from '../src/domain/phases.ts';
import { specSchema } from '../src/domain/spec.ts';
import { podOf } from '../src/sandbox/world/access.ts';
import { tellTimeline } from './timeline.ts';
import { say, superuser, type BenchWorld } from './world.ts';

/** The runbook by hand without a pause to think, then pgleap, on the same data; seconds of what services wait for. */
export async function benchDowntime(world: BenchWorld) {
  const hand = await byHand(world);
  const { stage, session } = world;
  say('downtime: pgleap');
  const { input } = await readSpecFile(stage.sandbox.upgradeSpec);
  input['gates'] = { begin: 'auto', replace: 'auto', reopen: 'auto', cleanup: 'auto' };
  const { workflowId } = await startUpgrade(session, input, specSchema.parse(input), null);
  const result = await upgradeResult(session, workflowId);
  if (!result.ok) throw new Error(`pgleap ended with ${result.outcome}: ${result.why}`);
  const { phases, gathered, downtime } = await upgradeStatus(session, workflowId);
  const between = (from: PhaseName, to: PhaseName) => {
    const began = phases.find(({ name }) => name === from)?.startedAt ?? '';
    const over = phases.find(({ name }) => name === to)?.endedAt ?? '';
    return (Date.parse(over) - Date.parse(began)) / 1000;
  };
  const seconds = {
    dump: gathered.dump?.seconds ?? NaN,
    fingerprint: gathered.sourceFingerprint?.seconds ?? NaN,
    import: gathered.restored?.import.seconds ?? NaN,
    backupAndTrial: between('backup', 'trial'),
    restore: between('restore', 'restore'),
    verify: between('verify', 'verify'),
  };
  const same = seconds.backupAndTrial + seconds.restore;
  const ratio = same / hand.total;
  await tellTimeline(session, workflowId, downtime.from ?? '', downtime.to ?? '');
  for (const { name, seconds: took } of result.phases) say(`  ${name.padEnd(12)} ${took.toFixed(1)} s`);
  say(
    `by hand ${hand.total.toFixed(1)} s; pgleap ${same.toFixed(1)} s with two fingerprints of the source and one of the trial`,
  );
  say(`ratio ${ratio.toFixed(2)}; with verify ${((same + seconds.verify) / hand.total).toFixed(2)}`);
  return {
    byHand: hand,
    pgleap: { ...seconds, downtime: result.downtimeSeconds },
    ratio: Math.round(ratio * 100) / 100,
  };
}

async function byHand({ access, pod, artifacts }: BenchWorld): Promise<Record<string, number> & { total: number }> {
  say('downtime: by hand');
  const kc = access.kubeConfig;
  const source = await podOf(access, 'databases', 'postgres');
  const seconds: Record<string, number> = {};
  const timed = async (name: string, work: () => Promise<unknown>) => {
    const began = performance.now();
    await work();
    seconds[name] = Math.round((performance.now() - began) / 100) / 10;
    say(`  ${name.padEnd(12)} ${seconds[name].toFixed(1)} s`);
  };
  const sh = (where: PodRef, script: string) =>
    runInPod(kc, where, ['bash', '-c', `set -o pipefail; ${script}`], { timeoutMs: 1_800_000 });
  const local = join(artifacts, 'by-hand.gz');
  await timed('dump, gzip', () => sh(source, `pg_dumpall -U ${superuser} | gzip >/tmp/by-hand.gz`));
  await timed('sha512sum', () => sh(source, 'sha512sum /tmp/by-hand.gz'));
  await timed('cp out', async () => {
    const stdout = createWriteStream(local);
    await execInPod(kc, source, ['cat', '/tmp/by-hand.gz'], { stdout, timeoutMs: 1_800_000 });
    await new Promise((resolve) => stdout.end(resolve));
  });
  const { size } = await stat(local);
  const copyIn = () =>
    execInPod(kc, pod, ['sh', '-c', `head -c ${size} >/pgleap/by-hand.gz`], {
      stdin: createReadStream(local),
      timeoutMs: 1_800_000,
    });
  const gunzip = () => sh(pod, 'gunzip -kf /pgleap/by-hand.gz');
  const load = () => sh(pod, `psql -qX -U ${superuser} -d postgres -f /pgleap/by-hand >/dev/null 2>&1`);
  await timed('trial in', copyIn);
  await timed('trial gunzip', gunzip);
  await timed('trial psql', load);
  const drop = `psql -qAtX -U ${superuser} -d postgres -c "SELECT format('DROP DATABASE %I;', datname) FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'" |
    psql -qX -U ${superuser} -d postgres`;
  await sh(pod, drop);
  await timed('cp in', copyIn);
  await timed('gunzip', gunzip);
  await timed('psql', load);
  await sh(source, 'rm /tmp/by-hand.gz');
  await access.core.deleteNamespacedPod({ name: pod.name, namespace: pod.namespace });
  const total = Object.values(seconds).reduce((sum, one) => sum + one, 0);
  return { ...seconds, total: Math.round(total * 10) / 10 };
}
