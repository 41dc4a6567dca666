/** What the benches run on: the demo's stage, with its worker as a process of its own, and a pod like a candidate. */
import { fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { runInPod } from '../src/activities/kubernetes/exec.ts';
import { connect, countWorkers, type Session } from '../src/client/connection.ts';
import type { PodRef } from '../src/domain/facts.ts';
import type { Stage, StageMessage } from '../src/sandbox/demo/stage.ts';
import { eventually, openAccess, type Access } from '../src/sandbox/world/access.ts';

export interface BenchWorld {
  stage: Stage;
  session: Session;
  access: Access;
  artifacts: string;
  /** PostgreSQL 18, empty, with room under /pgleap. */
  pod: PodRef;
  workerPid: number;
  close(): Promise<void>;
}

export function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

export const superuser = 'shop';

export async function raiseWorld(sizeMb: number): Promise<BenchWorld> {
  const artifacts = await mkdtemp(join(tmpdir(), 'pgleap-bench-'));
  const program = join(import.meta.dirname, '..', 'src', 'sandbox', 'demo', 'stage.ts');
  const child = fork(program, ['--size', String(sizeMb), '--artifacts', artifacts]);
  const ended = once(child, 'exit');
  // It takes everything down when it is let go of, also when this process is killed.
  const close = async () => {
    if (child.connected) child.disconnect();
    await ended;
    await rm(artifacts, { recursive: true, force: true });
  };
  try {
    const stage = await new Promise<Stage>((resolve, reject) => {
      child.on('message', (message: StageMessage) => {
        if (message.kind === 'ready') resolve(message.stage);
        if (message.kind === 'problem') reject(new Error(message.text));
        if (message.kind === 'problem') say(message.text);
      });
      child.once('exit', () => reject(new Error('the stage ended')));
    });
    const session = await connect({ address: stage.temporal.address });
    await eventually('the worker', 60, async () => ((await countWorkers(session)) > 0 ? true : undefined));
    const kubeConfig = new KubeConfig();
    kubeConfig.loadFromFile(stage.sandbox.kubeconfig);
    const access = openAccess(kubeConfig);
    const pod = await emptyServer(access);
    const workerPid = await workerOf(stage.pid);
    return {
      stage,
      session,
      access,
      artifacts,
      pod,
      workerPid,
      async close() {
        await session.close();
        await close();
      },
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function emptyServer(access: Access): Promise<PodRef> {
  const [namespace, name] = ['databases', 'bench'];
  await access.core.createNamespacedPod({
    namespace,
    body: {
      metadata: { name },
      spec: {
        volumes: [{ name: 'scratch', emptyDir: {} }],
        containers: [
          {
            name: 'postgres',
            image: 'postgres:18',
            env: [
              { name: 'POSTGRES_USER', value: superuser },
              { name: 'POSTGRES_PASSWORD', value: 'bench' },
              { name: 'PGDATA', value: '/pgleap/pgdata' },
            ],
            volumeMounts: [{ name: 'scratch', mountPath: '/pgleap' }],
          },
        ],
      },
    },
  });
  return await eventually('the empty server', 300, async () => {
    const { metadata } = await access.core.readNamespacedPod({ namespace, name });
    const pod = { namespace, name, uid: metadata?.uid ?? '', container: 'postgres' };
    const script = 'read -r pid <"$PGDATA/postmaster.pid" && [ "$pid" = 1 ] && pg_isready -q && echo up';
    return (await runInPod(access.kubeConfig, pod, ['bash', '-c', script])).trim() === 'up' ? pod : undefined;
  });
}

/** The stage starts the worker as its child, and so is the sandbox. */
async function workerOf(parent: number): Promise<number> {
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    const stat = await readFile(`/proc/${name}/stat`, 'utf8').catch(() => '');
    if (Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1]) !== parent) continue;
    const argv = (await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (argv.includes('worker')) return Number(name);
  }
  throw new Error('the stage has no worker');
}
