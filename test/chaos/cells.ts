import { inspect } from 'node:util';
import { writeFileSync } from 'node:fs';
import { ApplicationFailure } from '@temporalio/common';
import { expect, test, type TestContext } from 'vitest';
import { failures } from '../../src/domain/failures.ts';
import { redact } from '../../src/domain/redact.ts';
import { run } from '../activities/environment.ts';
import { impatiently, passingBy, retryAfterSeconds, type Fault, type Proxy } from './faults.ts';
import { callsFile, cellsOf, isCommand, known, nameOf, type Scene } from './scene.ts';
import { sampled } from './seed.ts';
import { tell } from './table.ts';

const writing = process.env['PGLEAP_WRITE_CALLS'] === '1';

export interface Stage {
  proxy: Proxy;
  /** All that an activity may change, without what is new each time. The same after a fault as without one. */
  world: () => Promise<unknown>;
  secrets: () => string[];
  /** What the worker's last net takes out. */
  clean: (text: string) => string;
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

/** All tests of these scenes. `stage` is there once the tests run. */
export function matrix(title: string, scenes: Scene[], stage: () => Stage): void {
  test(`${title}: the table knows every call`, { timeout: 300_000 }, async () => {
    const seen: Record<string, string[]> = {};
    for (const scene of scenes) {
      await scene.before?.();
      stage().proxy.forget();
      await run<unknown>(scene.run);
      seen[nameOf(scene)] = [...new Set(stage().proxy.seen)].sort();
      await scene.after?.();
    }
    if (writing) {
      const all = Object.entries({ ...known, ...seen }).sort(([a], [b]) => a.localeCompare(b));
      writeFileSync(callsFile, `${JSON.stringify(Object.fromEntries(all), null, 2)}\n`);
    } else {
      for (const [name, calls] of Object.entries(seen)) {
        const strange = calls.filter((call) => !known[name]?.includes(call));
        expect(strange, `new calls of ${name}`).toEqual([]);
      }
    }
  });

  const without = new Map<Scene, { world: unknown; told: unknown }>();
  for (const { scene, call, fault } of writing ? [] : sampled(title, scenes.flatMap(cellsOf))) {
    test(`${nameOf(scene)}: ${call}: ${fault}`, { timeout: 90_000 }, async (context) => {
      const on = stage();
      if (!without.has(scene)) {
        await scene.before?.();
        const result = await run<unknown>(scene.run);
        const told = await toldBy(scene, result);
        expect(told === undefined, 'whether it tells anything').toBe(result === undefined);
        without.set(scene, { world: await on.world(), told });
        await scene.after?.();
      }
      const expects = without.get(scene);
      try {
        await scene.before?.();
        on.proxy.forget();
        on.proxy.next(call, fault);
        await cell(context, title, { scene, call, fault, told: expects?.told }, on);
        expect(await on.world(), 'the world afterwards').toEqual(expects?.world);
      } finally {
        on.proxy.forget();
        await scene.after?.();
      }
    });
  }
}

async function toldBy(scene: Scene, result: unknown): Promise<unknown> {
  return scene.told === undefined ? result : await scene.told(result as never);
}

/** Runs the activity until it ends well. Whatever it resolves with must be what it tells without a fault. */
async function cell(
  context: TestContext,
  title: string,
  { scene, call, fault, told }: { scene: Scene; call: string; fault: Fault; told: unknown },
  on: Stage,
): Promise<void> {
  const began = performance.now();
  const row = { activity: nameOf(scene), call, fault };
  tell(context, title, { ...row, outcome: '' });
  const allowed = [...expected(scene, call, fault), ...(scene.also?.(call, fault) ?? [])];
  let first = '';
  let last: unknown;
  for (let attempt = 1; ; attempt += 1) {
    const heartbeats: unknown[] = [];
    const { outcome, result } = await attemptOf(scene, fault, heartbeats, last, on);
    last = heartbeats.at(-1);
    if (attempt === 1) {
      first = outcome;
      expect(on.proxy.happened(), 'the call was made, and met its fault').toBe(true);
      expect(allowed, `the outcome of ${fault}`).toContain(outcome);
    }
    if (outcome === 'mended') {
      const other = attempt === 1 && (scene.orTold?.(result as never, call, fault) ?? false);
      if (!other) expect(await toldBy(scene, result), 'what it told').toEqual(told);
      const believed = attempt === 1 && (other || ['401', '403', '404'].includes(fault));
      // What is said to be gone needs no undoing, and what may not be looked at is told of so. Said in error, the next run does it.
      if (believed) {
        const next = await attemptOf(scene, fault, [], last, on);
        expect(await toldBy(scene, next.result), 'what it told when nothing was wrong any more').toEqual(told);
      }
      const how = believed
        ? 'believed, done by the next run'
        : attempt === 1
          ? fault === 'slow'
            ? 'waited'
            : 'mended by itself'
          : `${first}, mended by attempt ${attempt}`;
      tell(context, title, { ...row, outcome: how, seconds: ((performance.now() - began) / 1000).toFixed(1) });
      return;
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
  const go = () => run<unknown>(scene.run, { heartbeats, ...(last === undefined ? {} : { last }) });
  const began = performance.now();
  let result: unknown;
  let thrown: unknown;
  try {
    result = await (fault === 'timeout' ? impatiently(go) : fault === 'slow' ? passingBy(go) : go());
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
