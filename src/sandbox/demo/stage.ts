/**
 * All that the demo runs on, held by a process of its own: Temporal's development server, the sandbox, a worker. It outlives the demo
 * only when told to (`--keep`), and otherwise takes everything down when the demo ends, however it ends.
 */
import { fork, spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { connect, type Session } from '../../client/connection.ts';
import { startTemporal } from '../../client/temporal-server.ts';
import type { WorldAddress } from '../world/raise.ts';

/** What the stage tells the demo. */
export type StageMessage =
  { kind: 'part'; name: string; seconds: number } | { kind: 'ready'; stage: Stage } | { kind: 'problem'; text: string };

export interface Stage {
  temporal: { address: string; uiUrl: string | null };
  sandbox: WorldAddress;
  /** Environment of the worker, without which no other command finds this world. */
  env: Record<string, string>;
  pid: number;
  folder: string;
}

const root = join(import.meta.dirname, '..', '..', '..');
const closers: (() => Promise<void>)[] = [];
let closing: Promise<void> | undefined;
/** On a server that is not the demo's own. */
const TASK_QUEUE = `pgleap-demo-${process.pid}`;
let keep = false;

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      from: { type: 'string', default: '16' },
      size: { type: 'string', default: '20' },
      artifacts: { type: 'string', default: 'artifacts' },
      cluster: { type: 'boolean', default: false },
    },
  });
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-demo-'));
  closers.push(() => rm(folder, { recursive: true, force: true }));
  if (values.cluster) await timed('a real one-node Kubernetes', () => clusterUp(folder));
  const [file, what] = values.cluster
    ? ['test/cluster/world.ts', 'a website’s zone, a database and the services on it, in the cluster']
    : ['src/sandbox/main.ts', 'a Kubernetes cluster, block storage, a website’s zone, and the services in them'];
  const [temporal, sandbox] = await Promise.all([
    timed('Temporal’s server', findServer),
    timed(what, () =>
      startWorld(folder, file, ['--state', join(folder, 'sandbox'), '--from', values.from, '--size', values.size]),
    ),
  ]);
  const env: Record<string, string> = {
    // On somebody's server there may be a worker for a real cluster: it must not be given this.
    ...(process.env['TEMPORAL_ADDRESS'] ? { PGLEAP_TASK_QUEUE: TASK_QUEUE } : {}),
    TEMPORAL_ADDRESS: temporal.address,
    KUBECONFIG: sandbox.kubeconfig,
    LINODE_API_URL: sandbox.linode.url,
    LINODE_TOKEN: sandbox.linode.token,
    CLOUDFLARE_API_URL: sandbox.cloudflare.url,
    CLOUDFLARE_API_TOKEN: sandbox.cloudflare.token,
    PGLEAP_ARTIFACTS: values.artifacts,
  };
  startWorker(folder, env);
  tell({ kind: 'ready', stage: { temporal, sandbox, env, pid: process.pid, folder } });
}

/** The server that the environment names, or a development server of the demo's own. */
async function findServer(): Promise<Stage['temporal']> {
  if (process.env['TEMPORAL_ADDRESS']) {
    const session = await connect();
    closers.push(async () => {
      await endUpgrade(session).catch(() => {});
      await session.close();
    });
    return { address: session.address, uiUrl: null };
  }
  const { address, uiUrl, close: closeServer } = await startTemporal();
  closers.push(closeServer);
  return { address, uiUrl };
}

/** Nobody could ever go on with it: its cluster goes with this process. An upgrade that is not the demo's is left alone. */
async function endUpgrade({ client }: Session): Promise<void> {
  const { taskQueue, runId, status } = await client.workflow.getHandle('pgleap/databases/postgres').describe();
  if (taskQueue !== TASK_QUEUE || status.name !== 'RUNNING') return;
  await client.workflow.getHandle('pgleap/databases/postgres', runId).terminate('the demo has ended');
}

async function timed<T>(name: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const result = await work();
  tell({ kind: 'part', name, seconds: (performance.now() - started) / 1000 });
  return result;
}

/** One that this brought up is taken down with the rest; a cluster that was there, or was given, is left. */
async function clusterUp(folder: string): Promise<void> {
  if (process.env['PGLEAP_TEST_KUBECONFIG']) return;
  const cluster = (...args: string[]) => finished(folder, join(root, 'test', 'cluster', 'cluster.ts'), args);
  const { wasUp }: { wasUp: boolean } = JSON.parse(await cluster('up', '--json'));
  if (!wasUp) closers.push(async () => void (await cluster('down')));
}

/** Runs a script to its end, and resolves with what it printed. */
async function finished(folder: string, script: string, args: string[]): Promise<string> {
  const child = spawn(process.execPath, [script, ...args], { stdio: ['ignore', 'pipe', 'pipe'] });
  const unfinished = () => ended(child);
  closers.push(unfinished);
  const [out, problems]: string[][] = [[], []];
  child.stdout.on('data', (chunk: Buffer) => out?.push(chunk.toString()));
  child.stderr.on('data', (chunk: Buffer) => problems?.push(chunk.toString()));
  child.stderr.pipe(createWriteStream(join(folder, 'cluster.log'), { flags: 'a' }));
  const [code] = (await once(child, 'close')) as [number | null];
  closers.splice(closers.indexOf(unfinished), 1);
  if (code !== 0) throw new Error(problems?.join('').trim() || `${script} ended with ${code}`);
  return out?.join('') ?? '';
}

async function startWorld(folder: string, file: string, args: string[]): Promise<WorldAddress> {
  const child = fork(join(root, file), args, { stdio: ['ignore', 'pipe', 'pipe', 'ipc'] });
  closers.push(() => ended(child));
  const problems: string[] = [];
  child.stderr?.pipe(createWriteStream(join(folder, 'sandbox.log')));
  child.stderr?.on('data', (chunk: Buffer) => problems.push(chunk.toString()));
  if (child.stdout === null) throw new Error('the sandbox has no output');
  for await (const line of createInterface({ input: child.stdout })) {
    const address: WorldAddress = JSON.parse(line);
    return address;
  }
  throw new Error(problems.join('').trim().split('\n').at(-1) ?? 'The sandbox ended at once.');
}

function startWorker(folder: string, env: Record<string, string>): void {
  const log = createWriteStream(join(folder, 'worker.log'));
  // The worker itself knows nothing of a parent; the kernel ends it with this process, should that be killed.
  const command = ['--pdeathsig', 'TERM', join(root, 'bin', 'pgleap'), 'worker'];
  const worker = spawn('setpriv', command, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  closers.push(() => ended(worker));
  const last: string[] = [];
  for (const stream of [worker.stdout, worker.stderr]) {
    stream.pipe(log, { end: false });
    stream.on('data', (chunk: Buffer) => last.push(...chunk.toString().split('\n').filter(Boolean)));
    stream.on('data', () => last.splice(0, last.length - 3));
  }
  worker.once('exit', (code) => {
    if (closing === undefined) tell({ kind: 'problem', text: `The worker ended with ${code}: ${last.join(' ')}` });
  });
}

async function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  // A cluster takes its time to end pods and detach volumes.
  const late = setTimeout(() => child.kill('SIGKILL'), 180_000);
  await exit;
  clearTimeout(late);
}

function tell(message: StageMessage): void {
  if (process.connected) process.send?.(message);
}

/** In the reverse order of their start: the worker first, while what it talks to still answers. */
async function close(): Promise<void> {
  closing ??= (async () => {
    for (const one of closers.splice(0).reverse()) await one().catch(() => {});
  })();
  await closing;
  process.exit();
}

process.on('SIGTERM', () => void close());
process.on('SIGINT', () => void close());
process.on('message', (message) => {
  if (message === 'keep') keep = true;
});
process.on('disconnect', () => {
  if (!keep) void close();
});

try {
  await main();
} catch (error) {
  tell({ kind: 'problem', text: error instanceof Error ? error.message : String(error) });
  await close();
}
