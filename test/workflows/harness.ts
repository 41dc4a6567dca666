import { fileURLToPath } from 'node:url';
import { Client, type WorkflowHandleWithStartDetails } from '@temporalio/client';
import type { DataConverter } from '@temporalio/common';
import { Context } from '@temporalio/activity';
import {
  Runtime,
  Worker,
  bundleWorkflowCode,
  DefaultLogger,
  type WorkflowBundleWithSourceMap,
} from '@temporalio/worker';
import { setTimeout as delay } from 'node:timers/promises';
import { vi } from 'vitest';
import { askStatus } from '../../src/client/upgrades.ts';
import type { GateName } from '../../src/domain/phases.ts';
import { gateRow, type UpgradeStatus } from '../../src/domain/state.ts';
import type { planPostgres, upgradePostgres } from '../../src/workflows/index.ts';
import { startTemporal } from '../support/temporal.ts';
import { isWriting } from './histories.ts';
import { createWorld, type ActivityName, type FakeWorld, type Knobs } from './fake-world.ts';

export type Handle = WorkflowHandleWithStartDetails<typeof upgradePostgres>;

const workflowsPath = fileURLToPath(new URL('../../src/workflows/index.ts', import.meta.url));
const interceptorsPath = fileURLToPath(new URL('../../src/workflows/interceptors.ts', import.meta.url));

const quiet = new DefaultLogger('ERROR');
Runtime.install({ logger: quiet, telemetryOptions: { logging: { forward: {}, filter: 'ERROR' } } });
vi.setConfig({ maxConcurrency: 8, testTimeout: 240_000, hookTimeout: 120_000 });

/** `more`: interceptors for a test alone. */
export function bundle(failureConverterPath?: string, more: string[] = []): Promise<WorkflowBundleWithSourceMap> {
  return bundleWorkflowCode({
    workflowsPath,
    workflowInterceptorModules: [interceptorsPath, ...more],
    logger: quiet,
    ...(failureConverterPath === undefined ? {} : { failureConverterPath }),
  });
}

export interface Upgrade {
  world: FakeWorld;
  handle: Handle;
  status(): Promise<UpgradeStatus>;
  /** Waits until the state is as asked; fails with the state's stage after some seconds. */
  until(what: (status: UpgradeStatus) => boolean): Promise<UpgradeStatus>;
  /** Waits for the gate and answers it with its own evidence, by update. */
  answer(gate: GateName, name?: 'approve' | 'reject', by?: string): Promise<string>;
  /** Approves gates in their order up to and with this one. */
  approveUpTo(last: GateName): Promise<void>;
  parked(): Promise<UpgradeStatus>;
  resolve(action: 'retry' | 'rollback' | 'abort'): Promise<string>;
}

function follow(world: FakeWorld, handle: Handle): Upgrade {
  const status = () => askStatus(handle);
  const until = async (what: (state: UpgradeStatus) => boolean) => {
    const deadline = Date.now() + 60_000;
    for (;;) {
      const state = await status();
      if (what(state)) return state;
      if (state.stage === 'ended' || Date.now() > deadline) {
        const at = state.phases.filter(({ state: s }) => s === 'running' || s === 'parked').map(({ name }) => name);
        throw new Error(
          `never so: ${state.stage} at ${at.join(', ')}, ${state.park?.message ?? ''} ${world.broken.join()}`,
        );
      }
      await delay(120);
    }
  };
  const heard = (kind: string, text: string) =>
    world.told.some((told) => told.kind === kind && told.text.includes(text));
  let resolved = 0;
  const answer = async (gate: GateName, name: 'approve' | 'reject' = 'approve', by = 'ada') => {
    // A query costs a workflow task: it is worth while once the upgrade has said that it waits.
    await world.until(() => heard('gate', `gate ${gate}:`));
    const state = await until((seen) => gateRow(seen, gate).state === 'open');
    if (name === 'approve') world.approvals.add(gate);
    const evidence = gateRow(state, gate).evidence?.hash;
    return handle.executeUpdate<string, [unknown]>(name, { args: [{ gate, by, evidence }] });
  };
  return {
    world,
    handle,
    status,
    until,
    answer,
    approveUpTo: async (last) => {
      for (const gate of ['begin', 'replace', 'reopen', 'cleanup'] as const) {
        await answer(gate);
        if (gate === last) return;
      }
    },
    parked: async () => {
      await world.until(() => world.told.filter(({ kind }) => kind === 'park').length > resolved);
      return until(({ stage, park }) => stage === 'parked' && park?.action === null);
    },
    resolve: async (action) => {
      const { park } = await until((seen) => seen.park !== null && seen.park.action === null);
      resolved += 1;
      return handle.executeUpdate<string, [unknown]>('resolve', { args: [{ park: park?.id, action, by: 'ada' }] });
    },
  };
}

/** One server, one bundle and one worker for a file; each test has a world and a workflow of its own, named by `prefix`. */
export async function startHarness(prefix = 'db', dataConverter?: DataConverter) {
  const [env, workflowBundle] = await Promise.all([startTemporal(), bundle(dataConverter?.failureConverterPath)]);
  const converting = dataConverter === undefined ? {} : { dataConverter };
  const client = new Client({ connection: env.connection, ...converting });
  const taskQueue = 'pgleap';
  const worlds = new Map<string, FakeWorld>();
  const names = Object.keys(createWorld({ namespace: 'x', queue: taskQueue }).activities) as ActivityName[];
  const activities = Object.fromEntries(
    names.map((name) => [
      name,
      (...args: unknown[]) => {
        const id = Context.current().info.workflowExecution?.workflowId ?? '';
        const world = worlds.get(id);
        if (!world) throw new Error(`no world for ${id}`);
        return world.perform(name, args);
      },
    ]),
  );
  const startWorker = async () => {
    const worker = await Worker.create({
      connection: env.nativeConnection,
      taskQueue,
      workflowBundle,
      activities,
      ...converting,
      identity: 'worker',
      maxHeartbeatThrottleInterval: '100ms',
      defaultHeartbeatThrottleInterval: '100ms',
    });
    return { worker, running: worker.run() };
  };
  let serving = await startWorker();
  const stopWorker = async () => {
    serving.worker.shutdown();
    await serving.running;
  };
  const restartWorker = async (meanwhile?: () => Promise<unknown>) => {
    await stopWorker();
    await meanwhile?.();
    serving = await startWorker();
  };
  // Each history that is ever kept has a workflow id of its own.
  const when = isWriting ? Date.now() : '';
  let count = 0;

  function makeWorld(knobs: Partial<Knobs> = {}): { world: FakeWorld; workflowId: string } {
    count += 1;
    const namespace = knobs.namespace ?? `${prefix}-${when}${count}`;
    const world = createWorld({ queue: taskQueue, ...knobs, namespace });
    const workflowId = `pgleap/${namespace}/postgres`;
    worlds.set(workflowId, world);
    return { world, workflowId };
  }

  async function start(
    options: {
      knobs?: Partial<Knobs>;
      spec?: Record<string, unknown>;
      memo?: Record<string, unknown>;
      workflowId?: string;
    } = {},
  ): Promise<Upgrade> {
    const made = makeWorld(options.knobs);
    const workflowId = options.workflowId ?? made.workflowId;
    worlds.set(workflowId, made.world);
    const spec = made.world.spec(options.spec);
    for (const [gate, { policy }] of Object.entries((spec['gates'] ?? {}) as Record<string, { policy?: string }>)) {
      if (policy === 'auto') made.world.approvals.add(gate);
    }
    const handle = await client.workflow.start<typeof upgradePostgres>('upgradePostgres', {
      workflowId,
      taskQueue,
      args: [spec],
      workflowIdConflictPolicy: 'FAIL',
      ...(options.memo ? { memo: { pgleap: options.memo } } : {}),
    });
    return follow(made.world, handle);
  }

  return {
    env,
    taskQueue,
    workflowBundle,
    worlds,
    makeWorld,
    start,
    plan: (workflowId: string, spec: unknown) =>
      client.workflow.execute<typeof planPostgres>('planPostgres', { workflowId, taskQueue, args: [spec] }),
    /** The next worker knows every workflow by its history only. */
    restartWorker,
    close: async () => {
      await stopWorker();
      await env.teardown();
    },
  };
}

export type Harness = Awaited<ReturnType<typeof startHarness>>;
