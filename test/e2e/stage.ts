/** What the end-to-end tests run on: each its own Temporal server and world, workers that can be killed, and answers to gates. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { onTestFinished } from 'vitest';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { connect, countWorkers, type Session } from '../../src/client/connection.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { startTemporal, type TemporalServer } from '../../src/client/temporal-server.ts';
import { describeUpgrade, findUpgrade, sendMessage, startUpgrade, upgradeStatus } from '../../src/client/upgrades.ts';
import { UserError } from '../../src/domain/exit-codes.ts';
import type { GateName } from '../../src/domain/phases.ts';
import { openGate, type UpgradeStatus } from '../../src/domain/state.ts';
import type { WorldAddress } from '../../src/sandbox/world/raise.ts';
import { startVisitor, type Visitor } from '../../src/sandbox/demo/visitor.ts';
import { openAccess, type Access } from '../../src/sandbox/world/access.ts';
import type { SourceMajor } from '../../src/sandbox/world/world.ts';
import { end, raiseTestWorld } from '../support/world.ts';

const root = join(import.meta.dirname, '..', '..');

export interface Stage {
  sandbox: WorldAddress;
  access: Access;
  session: Session;
  artifacts: string;
  /** A worker's environment. */
  env: NodeJS.ProcessEnv;
  visitor: Visitor;
  /** A worker as the operator runs it, with `more` in its environment; resolves when it asks for work. */
  startWorker(more?: Record<string, string>): Promise<ChildProcess>;
  /** What all workers have said so far. */
  said(): string;
  /** A `pgleap` command as the operator runs it, in the worker's environment. */
  pgleap(...args: string[]): {
    child: ChildProcess;
    done: Promise<{ code: number | null; stdout: string; stderr: string }>;
  };
}

/**
 * Ready to start an upgrade when it resolves; taken down when the running test has finished: one that runs beside others
 * gives its own `onTestFinished`. A `temporal` that is given stays its giver's.
 */
export async function raiseStage(
  from: SourceMajor,
  sizeMb: number,
  given: { topology?: string; temporal?: TemporalServer; onTestFinished?: typeof onTestFinished } = {},
): Promise<Stage> {
  const closers: (() => Promise<unknown>)[] = [];
  let session: Session | undefined;
  (given.onTestFinished ?? onTestFinished)(async ({ task }) => {
    if (task.result?.state === 'fail' && session) console.error(await whereItStands(session));
    for (const one of closers.splice(0).reverse()) await one();
  }, 240_000);
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-e2e-'));
  closers.push(() => rm(folder, { recursive: true, force: true }));
  const { topology = 'sandbox' } = given;
  const world = await raiseTestWorld({ stateDir: join(folder, 'world'), from, sizeMb, topology });
  closers.push(() => world.close());
  const sandbox = world.address;
  const temporal = given.temporal ?? (await startTemporal({ ui: false }));
  if (given.temporal === undefined) closers.push(() => temporal.close());
  const artifacts = join(folder, 'artifacts');
  const env = {
    ...process.env,
    TEMPORAL_ADDRESS: temporal.address,
    KUBECONFIG: sandbox.kubeconfig,
    LINODE_API_URL: sandbox.linode.url,
    LINODE_TOKEN: sandbox.linode.token,
    CLOUDFLARE_API_URL: sandbox.cloudflare.url,
    CLOUDFLARE_API_TOKEN: sandbox.cloudflare.token,
    PGLEAP_ARTIFACTS: artifacts,
  };
  const connected = await connect({ address: temporal.address });
  session = connected;
  closers.push(() => connected.close());
  const visitor = startVisitor(sandbox.siteUrl, sandbox.siteHost);
  closers.push(() => visitor.stop());
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.kubeconfig);
  let said = '';
  return {
    sandbox,
    access: openAccess(kubeConfig),
    session: connected,
    artifacts,
    env,
    visitor,
    said: () => said,
    pgleap(...args) {
      const child = spawn(process.execPath, [join(root, 'src', 'client', 'pgleap.ts'), ...args], {
        env,
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      const output = { stdout: '', stderr: '' };
      child.stdout.on('data', (chunk: Buffer) => (output.stdout += chunk.toString()));
      child.stderr.on('data', (chunk: Buffer) => (output.stderr += chunk.toString()));
      closers.push(() => end(child));
      return { child, done: once(child, 'close').then(() => ({ code: child.exitCode, ...output })) };
    },
    async startWorker(more = {}) {
      const worker = spawn(process.execPath, [join(root, 'src', 'client', 'pgleap.ts'), 'worker'], {
        env: { ...env, ...more },
        stdio: ['ignore', 'pipe', 'pipe'],
      });
      let log = '';
      worker.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()));
      worker.stderr.on('data', (chunk: Buffer) => {
        log += chunk.toString();
        said += chunk.toString();
      });
      closers.push(() => end(worker));
      const deadline = Date.now() + 180_000;
      while (!log.includes('worker is ready')) {
        if (worker.exitCode !== null || Date.now() > deadline) throw new Error(`no worker: ${log.slice(-2000)}`);
        await sleep(100);
      }
      while ((await countWorkers(connected).catch(() => 0)) === 0 && Date.now() < deadline) await sleep(100);
      return worker;
    },
  };
}

/** The newest upgrade's phases and questions, as its worker tells them, and its activities, which Temporal's server knows too. */
export async function whereItStands(session: Session): Promise<string> {
  try {
    const workflowId = await findUpgrade(session, undefined);
    const phases = upgradeStatus(session, workflowId).then(
      (status) => [
        ...status.phases.map(({ name, state, seconds }) => `${name} ${state} ${seconds ?? ''}`.trim()),
        `gate: ${openGate(status)?.name ?? 'none'}`,
        `park: ${JSON.stringify(status.park)}`,
      ],
      (error: unknown) => [String(error)],
    );
    const { activities } = await describeUpgrade(session, workflowId);
    return [...(await phases), ...activities.map((activity) => JSON.stringify(activity))].join('\n');
  } catch (error) {
    return String(error);
  }
}

export async function start(stage: Stage): Promise<string> {
  const { input, spec } = await readSpecFile(stage.sandbox.upgradeSpec);
  return (await startUpgrade(stage.session, input, spec, null)).workflowId;
}

/**
 * Waits until gate `name` is open. Fails at once when the upgrade is parked or ends, with what it said.
 */
export async function reachGate(stage: Stage, workflowId: string, name: GateName): Promise<UpgradeStatus> {
  return follow(stage, workflowId, `gate ${name}`, (status) => openGate(status)?.name === name);
}

export async function follow(
  stage: Stage,
  workflowId: string,
  what: string,
  reached: (status: UpgradeStatus) => boolean | Promise<boolean>,
): Promise<UpgradeStatus> {
  for (;;) {
    const status = await patiently(() => upgradeStatus(stage.session, workflowId));
    if (await reached(status)) return status;
    const { park, stage: is } = status;
    if (park !== null) throw new Error(`parked in ${park.phase} before ${what}: ${park.type}: ${park.message}`);
    if (is === 'ended') throw new Error(`ended before ${what}: ${status.ending?.why ?? ''}`);
    await sleep(200);
  }
}

/** Temporal goes on asking a killed worker for some seconds; the command's patience is shorter than that. */
export async function patiently<T>(request: () => Promise<T>): Promise<T> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await request();
    } catch (error) {
      if (!(error instanceof UserError && error.exit === 'noWorker') || attempt === 6) throw error;
    }
  }
}

/** Answers a gate with the evidence that it shows. */
export async function answer(
  stage: Stage,
  workflowId: string,
  name: GateName,
  message: 'approve' | 'reject' = 'approve',
): Promise<UpgradeStatus> {
  const status = await reachGate(stage, workflowId, name);
  const evidence = openGate(status)?.evidence?.hash ?? '';
  await patiently(() => sendMessage(stage.session, workflowId, message, { gate: name, by: 'e2e', evidence }));
  return status;
}

/**
 * When the process of a detached job began, as soon as it has, so that a kill lands inside it: an activity is seen running, and
 * heartbeats, before its work begins. Another time when the job was begun anew.
 */
export async function jobBegun(
  stage: Stage,
  workflowId: string,
  server: 'candidate' | 'target',
  job: string,
): Promise<string> {
  const script = 'cat "/pgleap/jobs/$1/start" 2>/dev/null || true';
  let ticks = '';
  await follow(stage, workflowId, `job ${job}`, async ({ gathered }) => {
    const pod = gathered[server]?.pod;
    if (pod) ticks = await runInPod(stage.access.kubeConfig, pod, ['sh', '-c', script, 'sh', job]);
    return ticks !== '';
  });
  return ticks;
}

/** What `pgleap recover` printed, as its last line; its exit code must be the one asked for. */
export async function recover(on: Stage, code: number, ...args: string[]): Promise<Record<string, unknown>> {
  const ended = await on.pgleap('recover', 'databases/postgres', '--json', ...args).done;
  if (ended.code !== code) throw new Error(`exit ${ended.code}: ${ended.stdout} ${ended.stderr.slice(-3000)}`);
  return JSON.parse(ended.stdout.trim().split('\n').at(-1) ?? '');
}

export async function kill(worker: ChildProcess): Promise<void> {
  const exit = once(worker, 'exit');
  worker.kill('SIGKILL');
  await exit;
}

/** An artifact's text, e.g. a fingerprint. */
export async function artifactText(stage: Stage, status: UpgradeStatus, name: string): Promise<string> {
  return readFile(join(stage.artifacts, status.upgradeId, name), 'utf8');
}
