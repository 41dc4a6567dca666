import { inspect } from 'node:util';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { ApplicationFailure } from '@temporalio/common';
import { expect, test, type TestContext } from 'vitest';
import { failures } from '../../src/domain/failures.ts';
import { redact } from '../../src/domain/redact.ts';
import { run } from '../activities/environment.ts';
import { faults, impatiently, retryAfterSeconds, type Fault, type Proxy } from './faults.ts';
import { sampled } from './seed.ts';
import { tell } from './table.ts';

/*
 * The fault matrix: every call that an activity makes, by every fault. The calls are those that were seen to pass: they are
 * kept in calls.json, and a test fails when an activity makes others. PGLEAP_WRITE_CALLS=1 writes them anew.
 */

const file = new URL('calls.json', import.meta.url);
const known: Record<string, string[]> = existsSync(file) ? JSON.parse(readFileSync(file, 'utf8')) : {};
const writing = process.env['PGLEAP_WRITE_CALLS'] === '1';

/** One activity in a world of which it can be run again and again. */
export interface Scene {
  activity: string;
  /** Which of the calls; default all. What takes seconds is tried with changes and lost answers only. */
  only?: (call: string, fault: Fault) => boolean;
  /** What else is right here, and why stands beside it. */
  also?: (call: string, fault: Fault) => string[];
  before?: () => Promise<unknown>;
  run: () => Promise<unknown>;
  /** What the result must be after a fault as without one: of those that look. */
  told?: (result: never) => unknown;
  /** Undoes what `before` and `run` did. */
  after?: () => Promise<unknown>;
}

export interface Stage {
  proxy: Proxy;
  /** All that an activity may change, without what is new each time. The same after a fault as without one. */
  world: () => Promise<unknown>;
  secrets: () => string[];
  /** What the worker's last net takes out. */
  clean: (text: string) => string;
}

function isCommand(call: string): boolean {
  return call.includes('/exec, ');
}

/**
 * What an activity may end with when a call met this fault. `mended`: it tried again by itself, or what was answered may
 * pass. Nothing else is right but what its scene adds; after all of them the same activity, run again, ends as if nothing had
 * been.
 */
function expected({ activity }: Scene, call: string, fault: Fault): string[] {
  const exec = isCommand(call);
  const change = !call.startsWith('GET');
  // Preflight says what it may not see, or does not find, in a check.
  const checks = /^(inspect|check)/.test(activity) ? ['check FAILED'] : [];
  switch (fault) {
    case 'slow':
      return ['mended'];
    case 'timeout':
    case 'reset before':
    case 'reset after':
    case '500':
    case '503':
      // Nobody knows whether a change took effect: only another look tells, and the next attempt looks.
      if (change) return ['Unreachable'];
      return exec ? ['StreamBroken', 'Unreachable', 'mended'] : ['Unreachable', 'mended'];
    case 'garbage':
      return ['Unreachable', 'mended'];
    case '401':
    case '403':
      return ['AccessDenied', ...checks];
    case '404':
      if (change) return ['NotFound', 'Conflict', 'mended'];
      return ['NotFound', 'mended', ...(call.includes('/pods/') ? ['PodLost'] : []), ...checks];
    case '409':
      return change ? ['Conflict', 'NotFound', 'mended'] : ['Conflict'];
    case '422':
      return ['Refused'];
    case '429':
      break;
  }
  return exec ? ['RateLimited', 'mended'] : ['RateLimited'];
}

/**
 * Of activities that wait until what they delete is gone: told in error that it is, they wait a minute and more, and say
 * NotStopped.
 */
export const notToldGone = (call: string, fault: Fault) => !(fault === '404' && call.startsWith('DELETE'));

/**
 * The same scenes, with every fault at every change in each of them, but every fault at one and the same read in one scene
 * only, in turn: one client reads for all of them. Commands in pods count as changes.
 */
export function takingTurns(scenes: Scene[]): Scene[] {
  const takes = (scene: Scene, call: string, fault: Fault) =>
    (known[scene.activity] ?? []).includes(call) && (scene.only?.(call, fault) ?? true);
  return scenes.map((scene) => ({
    ...scene,
    only: (call, fault) => {
      if (!takes(scene, call, fault)) return false;
      if (!call.startsWith('GET') || isCommand(call)) return true;
      const readers = scenes.filter((other) => takes(other, call, fault));
      return readers[faults.indexOf(fault) % readers.length] === scene;
    },
  }));
}

/** All tests of these scenes. `stage` is there once the tests run. */
export function matrix(title: string, scenes: Scene[], stage: () => Stage): void {
  test(`${title}: the table knows every call`, { timeout: 300_000 }, async () => {
    const seen: Record<string, string[]> = {};
    for (const scene of scenes) {
      await scene.before?.();
      stage().proxy.forget();
      await run(scene.run);
      seen[scene.activity] = [...new Set(stage().proxy.seen)].sort();
      await scene.after?.();
    }
    if (writing) {
      const kept: typeof known = JSON.parse(existsSync(file) ? readFileSync(file, 'utf8') : '{}');
      writeFileSync(
        file,
        `${JSON.stringify(Object.fromEntries(Object.entries({ ...kept, ...seen }).sort(([a], [b]) => a.localeCompare(b))), null, 2)}\n`,
      );
    } else {
      const table = Object.fromEntries(scenes.map(({ activity }) => [activity, known[activity] ?? []]));
      for (const [activity, calls] of Object.entries(seen)) {
        expect(
          calls.filter((call) => !table[activity]?.includes(call)),
          `new calls of ${activity}`,
        ).toEqual([]);
      }
    }
  });

  const cells = scenes.flatMap((scene) =>
    (known[scene.activity] ?? []).flatMap((call) =>
      faults.filter((fault) => scene.only?.(call, fault) ?? true).map((fault) => ({ scene, call, fault })),
    ),
  );
  const without = new Map<Scene, { world: unknown; told: unknown }>();
  for (const { scene, call, fault } of writing ? [] : sampled(title, cells)) {
    test(`${scene.activity}: ${call}: ${fault}`, { timeout: 90_000 }, async (context) => {
      const on = stage();
      if (!without.has(scene)) {
        await scene.before?.();
        const result = await run(scene.run);
        without.set(scene, { world: await on.world(), told: scene.told?.(result as never) });
        await scene.after?.();
      }
      try {
        await scene.before?.();
        on.proxy.forget();
        on.proxy.next(call, fault);
        const result = await cell(context, title, { scene, call, fault }, on);
        expect(await on.world(), 'the world afterwards').toEqual(without.get(scene)?.world);
        expect(scene.told?.(result as never), 'what it told').toEqual(without.get(scene)?.told);
      } finally {
        on.proxy.forget();
        await scene.after?.();
      }
    });
  }
}

async function cell(
  context: TestContext,
  title: string,
  { scene, call, fault }: { scene: Scene; call: string; fault: Fault },
  on: Stage,
): Promise<unknown> {
  const began = performance.now();
  const row = { activity: scene.activity, call, fault };
  tell(context, title, { ...row, outcome: '' });
  const allowed = [...expected(scene, call, fault), ...(scene.also?.(call, fault) ?? [])];
  let first = '';
  let last: unknown;
  for (let attempt = 1; ; attempt += 1) {
    const heartbeats: unknown[] = [];
    const attempted = await attemptOf(scene, fault, heartbeats, last, on);
    const { outcome } = attempted;
    let { result } = attempted;
    last = heartbeats.at(-1);
    if (attempt === 1) {
      first = outcome;
      expect(on.proxy.happened(), 'the call was made, and met its fault').toBe(true);
      expect(allowed, `the outcome of ${fault}`).toContain(outcome);
    }
    if (outcome === 'mended') {
      const believed = attempt === 1 && ['401', '403', '404'].includes(fault);
      // What is said to be gone needs no undoing, and what may not be looked at is told of so. Said in error, the next run does it.
      if (believed) ({ result } = await attemptOf(scene, fault, [], last, on));
      const how = believed
        ? 'believed, done by the next run'
        : attempt === 1
          ? fault === 'slow'
            ? 'waited'
            : 'mended by itself'
          : `${first}, mended by attempt ${attempt}`;
      tell(context, title, { ...row, outcome: how, seconds: ((performance.now() - began) / 1000).toFixed(1) });
      return result;
    }
    expect(attempt, `${outcome} again, though nothing is wrong any more`).toBeLessThan(3);
  }
}

async function attemptOf(
  scene: Scene,
  fault: Fault,
  heartbeats: unknown[],
  last: unknown,
  on: Stage,
): Promise<{ outcome: string; result: unknown }> {
  const go = () => run(scene.run, { heartbeats, ...(last === undefined ? {} : { last }) });
  const began = performance.now();
  let result: unknown;
  let thrown: unknown;
  try {
    result = await (fault === 'timeout' ? impatiently(go) : go());
  } catch (error) {
    thrown = error;
  }
  expect(performance.now() - began, 'milliseconds of one attempt').toBeLessThan(45_000);
  const deep = { depth: Infinity, showHidden: true, getters: true, maxStringLength: Infinity, breakLength: Infinity };
  const said = inspect({ heartbeats, result }, deep) + on.clean(inspect(thrown, deep));
  for (const secret of on.secrets()) expect(said, 'what leaves the activity').not.toContain(secret);
  if (thrown === undefined) {
    const failed = inspect(result, deep).includes("status: 'FAILED'");
    return { outcome: failed ? 'check FAILED' : 'mended', result };
  }
  if (!(thrown instanceof ApplicationFailure)) throw new Error('not one of pgleap’s failures', { cause: thrown });
  const type = String(thrown.type);
  if (!(type in failures)) throw new Error(`unknown failure type ${type}`, { cause: thrown });
  expect(thrown.nonRetryable).toBe(!failures[type as keyof typeof failures].retry);
  expect(thrown.message).toBe(redact(thrown.message));
  if (type === 'RateLimited') expect(thrown.nextRetryDelay).toBe(retryAfterSeconds * 1000);
  return { outcome: type, result };
}
