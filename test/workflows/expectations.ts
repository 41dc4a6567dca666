import { WorkflowFailedError, WorkflowUpdateFailedError } from '@temporalio/client';
import { ApplicationFailure } from '@temporalio/common';
import { expect } from 'vitest';
import type { Upgrade } from './harness.ts';

/** Gates that pass by policy. */
const auto = { policy: 'auto' };
export const allAuto = { begin: auto, replace: auto, reopen: auto, cleanup: auto };

/** Exactly as before the upgrade, and the journal says so. */
export function oldWorldStands({ world }: Upgrade): void {
  expect(world.broken).toEqual([]);
  expect(world.state).toEqual(world.oldState());
  expect(world.journal.closed).toBe('rolled-back');
}

/** The failure a workflow ended with. */
export async function failure(upgrade: Upgrade): Promise<{ type: string; message: string }> {
  const error: unknown = await upgrade.handle.result().catch((caught: unknown) => caught);
  const cause = error instanceof WorkflowFailedError ? error.cause : undefined;
  if (!(cause instanceof ApplicationFailure)) throw new Error(`no such failure: ${String(error)}`);
  return { type: cause.type ?? '', message: cause.message };
}

/** The text of a refused update. */
export async function refusal(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => new Error('it was accepted'),
    (caught: unknown) => caught,
  );
  if (!(error instanceof WorkflowUpdateFailedError)) throw error;
  return error.cause?.message ?? '';
}

/** Where in the order of activities one of them stands. */
export function positions(order: readonly string[], name: string): number[] {
  return order.flatMap((known, index) => (known === name ? [index] : []));
}
