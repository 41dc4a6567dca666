import { KubeConfig } from '@kubernetes/client-node';
import type { Client } from '@temporalio/client';
import { MockActivityEnvironment } from '@temporalio/testing';
import { expect, test, vi } from 'vitest';
import { announce, beat, requireLeave, withLeave } from '../../src/activities/context.ts';
import { createPostgresActivities } from '../../src/activities/postgres/index.ts';
import type { Progress } from '../../src/activities/types.ts';

/** Stands where Temporal's client does and notes what is sent. */
function listener() {
  const signals: unknown[] = [];
  const signal = async (name: string, value: unknown): Promise<void> => {
    signals.push([name, value]);
  };
  const withAbortSignal = (_: AbortSignal, run: () => unknown): unknown => run();
  return { signals, client: { withAbortSignal, workflow: { getHandle: () => ({ signal }) } } as unknown as Client };
}

const progress = (done: number): Progress => ({ what: 'dump', done, total: 9, unit: 'bytes' });

test('long work tells its upgrade of progress, seldom; short work never does', async () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  const { signals, client } = listener();
  const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 }, { client });
  await environment.run(async () => {
    beat(progress(1));
    vi.advanceTimersByTime(14_000);
    beat(progress(2));
    expect(signals).toEqual([]);
    vi.advanceTimersByTime(2_000);
    beat(progress(3));
    beat(progress(4));
    await Promise.resolve();
  });
  vi.useRealTimers();
  expect(signals).toEqual([['progress', progress(3)]]);
});

test('days of work leave room in the history for people', async () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  const { signals, client } = listener();
  const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 }, { client });
  await environment.run(async () => {
    for (let second = 0; second < 3 * 86_400; second += 5) {
      beat(progress(second));
      vi.advanceTimersByTime(5000);
    }
    await Promise.resolve();
  });
  vi.useRealTimers();
  expect(signals.length).toBeGreaterThan(100);
  expect(signals.length).toBeLessThan(500);
});

test('a leave to change something is asked for again after some seconds, and when it took as long to be given', async () => {
  vi.useFakeTimers({ toFake: ['Date'] });
  let asked = 0;
  const ask = async () => {
    asked += 1;
    // As when the machine was suspended after the answer came.
    if (asked === 3) vi.advanceTimersByTime(60_000);
    await Promise.resolve();
  };
  const counts = await withLeave(ask, async () => {
    const seen = [asked];
    for (const [passed, anew] of [
      [4000, false],
      [4000, false],
      [0, true],
    ] as const) {
      vi.advanceTimersByTime(passed);
      await requireLeave(anew);
      seen.push(asked);
    }
    return seen;
  });
  vi.useRealTimers();
  expect(counts).toEqual([1, 1, 2, 4]);
});

test('a mere sign of life repeats the progress that was measured last', async () => {
  const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 });
  const beats: unknown[] = [];
  environment.on('heartbeat', (details) => beats.push(details));
  await environment.run(async () => {
    beat(progress(1));
    beat();
  });
  expect(beats).toEqual([progress(1), progress(1)]);
});

test('what the next attempt must know is in every heartbeat that follows', async () => {
  const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 });
  const beats: unknown[] = [];
  environment.on('heartbeat', (details) => beats.push(details));
  await environment.run(async () => {
    announce({ cloning: 'mine' });
    beat();
    beat(progress(1));
  });
  expect(beats).toEqual([{ cloning: 'mine' }, { cloning: 'mine' }, { cloning: 'mine', ...progress(1) }]);
});

test('activities that talk to a server give signs of life by themselves', async () => {
  const { inspectSource } = createPostgresActivities({ kubeConfig: new KubeConfig() });
  const environment = new MockActivityEnvironment({ heartbeatTimeoutMs: 30_000 });
  let beats = 0;
  environment.on('heartbeat', () => (beats += 1));
  const arg = { spec: {}, database: { pod: {} } } as Parameters<typeof inspectSource>[0];
  await environment.run(inspectSource, arg).catch(() => undefined);
  expect(beats).toBeGreaterThan(0);
});
