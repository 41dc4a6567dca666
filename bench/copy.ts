import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { NativeConnection, Worker } from '@temporalio/worker';
import { runInPod } from '../src/activities/kubernetes/exec.ts';
import type { Artifact, World } from '../src/domain/facts.ts';
import type { CopyArgument } from './copy-workflow.ts';
import { say, type BenchWorld } from './world.ts';

const taskQueue = 'pgleap-bench';
/** What a worker may have resident (`VmRSS`, with the pages of files) while it copies. */
const allowedMb = 250;

/** Copies by the activities of a real worker, called from a workflow of the bench; reads that process' peak of memory. */
export async function benchCopy(world: BenchWorld, sizeMb: number) {
  const { access, pod, session, workerPid } = world;
  const bytes = sizeMb * 1024 * 1024;
  say(`copy: ${sizeMb} MB of random bytes in the pod`);
  const make = 'head -c "$1" /dev/urandom >/pgleap/dump && sha512sum </pgleap/dump';
  const inPod = (script: string, ...args: string[]) =>
    runInPod(access.kubeConfig, pod, ['sh', '-c', script, 'sh', ...args], { timeoutMs: 900_000 });
  const sha512 = (await inPod(make, String(bytes))).slice(0, 128);
  const { metadata } = await access.core.readNamespace({ name: 'kube-system' });
  const at: World = {
    clusterUid: metadata?.uid ?? '',
    upgradeId: 'u00000000',
    startedAt: new Date().toISOString(),
    namespace: pod.namespace,
  };
  const queue = (await readFile(join(world.artifacts, 'queue'), 'utf8')).trim();
  const connection = await NativeConnection.connect({ address: world.stage.temporal.address });
  const bench = await Worker.create({
    connection,
    taskQueue,
    workflowsPath: join(import.meta.dirname, 'copy-workflow.ts'),
  });
  const idle = await memoryOf(workerPid);
  // From here on the peak is that of the copies.
  await writeFile(`/proc/${workerPid}/clear_refs`, '5');
  const artifact: Artifact = { name: 'dump', bytes, sha512 };
  const step = (argument: Omit<CopyArgument, 'queue'>) =>
    session.client.workflow.execute('benchCopy', {
      workflowId: `bench-${argument.activity}`,
      taskQueue,
      args: [{ queue, ...argument }],
    });
  const timed = async (argument: Omit<CopyArgument, 'queue'>) => {
    const began = performance.now();
    await step(argument);
    return (performance.now() - began) / 1000;
  };
  const [out, back] = await bench.runUntil(async () => {
    const first = await timed({ activity: 'copyOut', arg: { world: at, pod, path: '/pgleap/dump', ...artifact } });
    say(`out: ${first.toFixed(1)} s, ${(sizeMb / first).toFixed(0)} MB/s`);
    const second = await timed({ activity: 'copyIn', arg: { world: at, artifact, pod, path: '/pgleap/back' } });
    say(`in:  ${second.toFixed(1)} s, ${(sizeMb / second).toFixed(0)} MB/s`);
    return [first, second];
  });
  await connection.close();
  const { peakMb } = await memoryOf(workerPid);
  const here = createHash('sha512');
  for await (const chunk of createReadStream(join(world.artifacts, at.upgradeId, 'dump')) as AsyncIterable<Buffer>)
    here.update(chunk);
  const equal = here.digest('hex') === sha512 && (await inPod('sha512sum </pgleap/back')).slice(0, 128) === sha512;
  if (!equal) throw new Error('what was copied is not what was there');
  await rm(join(world.artifacts, at.upgradeId), { recursive: true });
  say(`worker: ${idle.nowMb} MB before, at most ${peakMb} MB while it copied`);
  if (!(peakMb < allowedMb)) throw new Error(`the worker took ${peakMb} MB, which is not less than ${allowedMb}`);
  return {
    sizeMb,
    outSeconds: round(out),
    inSeconds: round(back),
    outMbPerSecond: round(sizeMb / out),
    inMbPerSecond: round(sizeMb / back),
    idleMb: idle.nowMb,
    startPeakMb: idle.peakMb,
    peakMb,
  };
}

async function memoryOf(pid: number): Promise<{ nowMb: number; peakMb: number }> {
  const text = await readFile(`/proc/${pid}/status`, 'utf8');
  const mb = (name: string) => Math.round(Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(text)?.[1]) / 1024);
  return { nowMb: mb('VmRSS'), peakMb: mb('VmHWM') };
}

function round(value: number | undefined): number {
  return Math.round((value ?? NaN) * 10) / 10;
}
