import { AsyncLocalStorage } from 'node:async_hooks';
import { asyncLocalStorage, type Context } from '@temporalio/activity';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Progress } from './types.ts';

/*
 * Undo activities must also work without Temporal, so these fall back to plain behaviour when no
 * activity is running.
 */

interface Told {
  /** What the next attempt must know. */
  announced: object | undefined;
  progress: Progress | undefined;
  toldAt: number;
  beganAt: number;
}

/** Of each running activity: what it announced, what it measured last, and when the upgrade was told. */
const measured = new WeakMap<Context, Told>();

function toldOf(context: Context): Told {
  const known = measured.get(context) ?? {
    announced: undefined,
    progress: undefined,
    toldAt: Date.now(),
    beganAt: Date.now(),
  };
  measured.set(context, known);
  return known;
}

function heartbeat(context: Context, { announced, progress }: Told): void {
  context.heartbeat(announced === undefined ? progress : { ...announced, ...progress });
}

/** Says in this and all later heartbeats what the next attempt must know: it finds it in its heartbeat details. */
export function announce(announced: object): void {
  const context = asyncLocalStorage.getStore();
  if (context?.info.heartbeatTimeoutMs === undefined) return;
  const known = toldOf(context);
  known.announced = announced;
  heartbeat(context, known);
}

/** A signal is an event in the history for good: the upgrade is told of long work only, and seldom. */
const tellEveryMs = 15_000;
/**
 * The longer it takes, the more seldom: an execution takes 10,000 signals and 50,000 events at most, then no answer of a
 * person's would reach it either. Three days of work are some 350 signals so.
 */
const tellEveryPart = 0.02;

/**
 * Heartbeats when this runs as an activity that has a heartbeat timeout. Without an argument it repeats the progress that
 * was measured last, so that a mere sign of life does not hide it.
 */
export function beat(progress?: Progress): void {
  const context = asyncLocalStorage.getStore();
  if (context?.info.heartbeatTimeoutMs === undefined) return;
  const known = toldOf(context);
  known.progress = progress ?? known.progress;
  heartbeat(context, known);
  const now = Date.now();
  const interval = Math.max(tellEveryMs, (now - known.beganAt) * tellEveryPart);
  if (progress === undefined || now - known.toldAt < interval) return;
  known.toldAt = now;
  void tellUpgrade(context, progress);
}

/** Best effort: progress that does not arrive is replaced by the next, and shown by the heartbeat meanwhile. */
async function tellUpgrade(context: Context, progress: Progress): Promise<void> {
  const execution = context.info.workflowExecution;
  if (execution === undefined) return;
  try {
    await context.client.workflow.getHandle(execution.workflowId, execution.runId).signal('progress', progress);
  } catch (error) {
    context.log.debug('the upgrade could not be told of progress', { error: String(error) });
  }
}

/** Whether this runs as an activity that heartbeats: one that waits, and may wait out an outage instead of failing. */
export function mayWait(): boolean {
  return asyncLocalStorage.getStore()?.info.heartbeatTimeoutMs !== undefined;
}

/** Aborted when the activity is cancelled; undefined outside of Temporal. */
export function abortSignal(): AbortSignal | undefined {
  return asyncLocalStorage.getStore()?.cancellationSignal;
}

/** How an activity that goes forward is told whether it still may, and when it was told so last. By the wall clock: no other counts while a machine is suspended. */
interface Leave {
  ask: () => Promise<void>;
  askedAt: number;
}
const leaves = new AsyncLocalStorage<Leave>();
/** How long a leave holds. Longer than most requests take, and less than it takes to replace a worker and go back. */
const leaveMs = 5000;

/** Runs what may change something only as long as `ask` does not throw. */
export async function withLeave<T>(ask: () => Promise<void>, run: () => Promise<T>): Promise<T> {
  return await leaves.run({ ask, askedAt: -Infinity }, async () => {
    await requireLeave();
    return await run();
  });
}

/**
 * Before each change: throws when the running activity may change nothing any more. It may have been frozen since it began,
 * while another worker took over and went on to the end, or back. `anew`: asks also when it was told a moment ago.
 */
export async function requireLeave(anew = false): Promise<void> {
  const leave = leaves.getStore();
  if (leave === undefined || (!anew && Date.now() - leave.askedAt < leaveMs)) return;
  do {
    const now = Date.now();
    await leave.ask();
    leave.askedAt = now;
    // Frozen while it asked.
  } while (Date.now() - leave.askedAt >= leaveMs);
}

/** Sleeps; throws the cancellation's own error when the activity is cancelled meanwhile. */
export async function pause(ms: number): Promise<void> {
  const signal = abortSignal();
  try {
    await sleep(ms, undefined, signal === undefined ? {} : { signal });
  } catch (error) {
    throw signal?.aborted === true ? signal.reason : error;
  }
}

/**
 * Asks `probe` until it gives something other than undefined: soon at first, then every `maxMs`. Heartbeats each time.
 * Returns undefined when `timeoutMs` passed. What `probe` throws ends it.
 */
export async function poll<T>(
  probe: () => Promise<T | undefined>,
  options: { timeoutMs: number; startMs?: number; maxMs?: number; progress?: () => Progress },
): Promise<T | undefined> {
  const deadline = performance.now() + options.timeoutMs;
  let wait = options.startMs ?? 100;
  for (;;) {
    beat(options.progress?.());
    const answer = await probe();
    if (answer !== undefined) return answer;
    const left = deadline - performance.now();
    if (left <= 0) return undefined;
    await pause(Math.min(wait, left));
    wait = Math.min(wait * 1.5, options.maxMs ?? 1000);
  }
}

/**
 * Wraps activities so that each heartbeats from a timer too: a command or request that takes its time is no dead worker.
 * Every wait in them has a time limit of its own, so a stuck one is not hidden for good.
 */
export function beating<T extends Record<keyof T, (arg: never) => Promise<unknown>>>(activities: T): T {
  const wrapped = Object.entries<(arg: never) => Promise<unknown>>(activities).map(([name, run]) => [
    name,
    async (arg: never) => {
      beat();
      const timer = setInterval(() => beat(), 5000);
      try {
        return await run(arg);
      } finally {
        clearInterval(timer);
      }
    },
  ]);
  return Object.fromEntries(wrapped);
}
