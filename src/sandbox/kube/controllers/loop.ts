import type { Resource } from '../objects.ts';
import type { Change, Store } from '../store.ts';
import type { Recorder } from '../events.ts';

/** What every controller works with. */
export interface Context {
  store: Store;
  recorder: Recorder;
  /** Where to say that a reconcile failed; it is tried again in any case. */
  onError: (where: string, error: unknown) => void;
}

export interface Controller {
  /** Stops, and resolves when nothing of it runs any more. */
  close(): Promise<void>;
}

export interface Queue extends Controller {
  add(key: string, delayMs?: number): void;
}

/** A work queue: each key is handled by one reconcile at a time, and once more when it was added meanwhile. */
export function startQueue(
  name: string,
  context: Context,
  reconcile: (key: string, queue: Queue) => void | Promise<void>,
): Queue {
  const waiting = new Set<string>();
  const running = new Map<string, Promise<void>>();
  const timers = new Map<string, { at: number; timer: NodeJS.Timeout }>();
  const failures = new Map<string, number>();
  let planned = false;
  let closed = false;

  async function run(key: string): Promise<void> {
    try {
      await reconcile(key, queue);
      failures.delete(key);
    } catch (error) {
      if (closed) return;
      const count = (failures.get(key) ?? 0) + 1;
      failures.set(key, count);
      context.onError(`${name} ${key}`, error);
      queue.add(key, Math.min(100 * 2 ** count, 10_000));
    }
  }

  function drain(): void {
    planned = false;
    // A key that is running stays in the set, and is taken up when it ends.
    const due = [...waiting].filter((key) => !running.has(key));
    for (const key of closed ? [] : due) {
      waiting.delete(key);
      running.set(
        key,
        run(key).finally(() => {
          running.delete(key);
          if (waiting.has(key)) plan();
        }),
      );
    }
  }

  function plan(): void {
    if (planned || closed) return;
    planned = true;
    setImmediate(drain);
  }

  const queue: Queue = {
    add(key, delayMs = 0) {
      if (closed) return;
      if (delayMs <= 0) {
        waiting.add(key);
        plan();
        return;
      }
      const at = Date.now() + delayMs;
      const before = timers.get(key);
      if (before !== undefined && before.at <= at) return;
      if (before !== undefined) clearTimeout(before.timer);
      const fire = () => {
        timers.delete(key);
        queue.add(key);
      };
      timers.set(key, { at, timer: setTimeout(fire, delayMs) });
    },
    async close() {
      closed = true;
      for (const { timer } of timers.values()) clearTimeout(timer);
      await Promise.all(running.values());
    },
  };
  return queue;
}

/** Adds to the queue what each change of these resources concerns, beginning with what is there already. */
export function feed(
  store: Store,
  queue: Queue,
  keysOf: { [R in Resource]?: (change: Change<R>) => string[] },
): Controller {
  function take(change: Change): void {
    const keys = (keysOf[change.resource] as ((one: Change) => string[]) | undefined)?.(change) ?? [];
    for (const key of keys) queue.add(key);
  }
  for (const resource of Object.keys(keysOf) as Resource[]) {
    for (const object of store.list(resource)) take({ type: 'ADDED', resource, object, version: store.version() });
  }
  const stop = store.subscribe(take);
  return {
    close() {
      stop();
      return queue.close();
    },
  };
}
