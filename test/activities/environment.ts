import { inspect } from 'node:util';
import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { expect } from 'vitest';
import { failures, type FailureType } from '../../src/domain/failures.ts';

/**
 * Runs an activity's body as Temporal would. Heartbeats are appended to `heartbeats`; `last` is what the attempt before
 * this one sent; `cancelAfter` heartbeats it is cancelled, or when the promise `cancelWhen` resolves.
 */
export function run<R>(
  body: () => Promise<R>,
  {
    heartbeats = [],
    last,
    cancelAfter,
    cancelWhen,
  }: { heartbeats?: unknown[]; last?: unknown; cancelAfter?: number; cancelWhen?: Promise<unknown> } = {},
): Promise<R> {
  const environment = new MockActivityEnvironment(
    { heartbeatTimeoutMs: 30_000, heartbeatDetails: last },
    { logger: new DefaultLogger('ERROR') },
  );
  environment.on('heartbeat', (details) => {
    heartbeats.push(details);
    if (heartbeats.length === cancelAfter) environment.cancel();
  });
  void cancelWhen?.then(() => environment.cancel());
  return environment.run(body);
}

/**
 * The failure that `call` ends with. It must be of the wanted type, retryable as that type says, and carry none of
 * `secrets` anywhere: not in message, stack, details, or causes, however deep.
 */
export async function failureOf(
  call: Promise<unknown>,
  type: FailureType,
  secrets: readonly string[],
): Promise<ApplicationFailure> {
  const thrown: unknown = await call.then(
    (value) => new Error(`it succeeded with ${inspect(value)}`),
    (error: unknown) => error,
  );
  if (!(thrown instanceof ApplicationFailure)) throw new Error('not an ApplicationFailure', { cause: thrown });
  expect(thrown.type, thrown.message).toBe(type);
  expect(thrown.nonRetryable).toBe(!failures[type].retry);
  const everything = inspect(thrown, { depth: Infinity, showHidden: true, getters: true, maxStringLength: Infinity });
  for (const secret of secrets) expect(everything).not.toContain(secret);
  return thrown;
}
