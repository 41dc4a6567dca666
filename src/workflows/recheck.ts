/**
 * Gate begin may have waited for hours: pods restart, services are scaled, workloads are replaced. Before anything goes down
 * the world is looked at again.
 */
import { ApplicationFailure, CancelledFailure } from '@temporalio/workflow';
import type { Check } from '../domain/checks.ts';
import type { ClusterFacts } from '../domain/facts.ts';
import { changedSince, planHash } from '../domain/plan.ts';
import { gateRow } from '../domain/state.ts';
import { act } from './activities.ts';
import { insist } from './park.ts';
import { resolved, show, stop, type Run } from './run.ts';

/**
 * True when the plan is still true, with the database's pod of now. False when services, or what keeps them, changed: then the
 * plan is made anew from them, and what was approved is void. A database that is another one ends the upgrade; one that cannot
 * be looked at, or a check that FAILED only now, parks it.
 */
export async function planStillHolds(run: Run): Promise<boolean> {
  const { spec, plan, world } = resolved(run);
  const facts = await insist(run, 'maintain', async () =>
    stillSeen(
      await act('inspectCluster', 'see that the plan still holds', { spec }),
      plan.facts.cluster,
      world.upgradeId,
    ),
  );
  const changed = changedSince(plan.facts.cluster, facts);
  if (changed.database) {
    const why = 'The database is not the one of the plan any more; nothing went down.';
    stop(run, { how: 'refused', why, by: null, type: 'WrongWorld' });
    throw new CancelledFailure(why);
  }
  plan.facts.cluster.database.pod = facts.database.pod;
  plan.facts.cluster.database.podIp = facts.database.podIp;
  plan.facts.cluster.database.templateHash = facts.database.templateHash;
  plan.facts.cluster.services = facts.services;
  plan.facts.cluster.reconcilers = facts.reconcilers;
  if (!changed.services) return true;

  plan.hash = planHash(spec, plan.facts);
  const row = gateRow(run.status, 'begin');
  run.status.notes.push(
    `Services, or what keeps them, changed while gate begin waited, so what ${row.by ?? 'somebody'} approved is void.`,
  );
  row.reminders = 0;
  show(run);
  return false;
}

/**
 * What prepare brought about, which preflight takes for another upgrade's: Lease and journal, and in the quotas the very
 * candidate and scratch volume that they were to leave room for.
 */
function isOwnTrace({ id, message }: Check, upgradeId: string): boolean {
  return id === 'kube.lease' || id === 'kube.quota' || (id === 'kube.leftover' && message.includes(upgradeId));
}

/** The facts; throws what is in the way of them, or what would have refused the upgrade had preflight seen it. */
function stillSeen(
  { facts, checks }: { facts: ClusterFacts | null; checks: Check[] },
  planned: ClusterFacts,
  upgradeId: string,
): ClusterFacts {
  const failed = checks.filter((check) => check.status === 'FAILED' && !isOwnTrace(check, upgradeId));
  // Another database is no question to anybody, whatever else is said of it.
  if (facts !== null && (failed.length === 0 || changedSince(planned, facts).database)) return facts;
  const lines = failed.map(({ id, message, remedy = '' }) => `${id}: ${message} ${remedy}`.trim());
  throw ApplicationFailure.nonRetryable(
    `Before anything goes down the plan is compared with the world, and that does not go any more. ${lines.join(' ')} Mend it and retry.`,
    'PreflightRefused',
  );
}

/** The source's pod of now, for a phase that is begun again: a restarted pod is still the same database. */
export async function refreshSource(run: Run): Promise<void> {
  const { spec, plan } = resolved(run);
  const { facts } = await act('inspectCluster', 'find the source’s pod', { spec });
  if (!facts || changedSince(plan.facts.cluster, facts).database) return;
  plan.facts.cluster.database.pod = facts.database.pod;
  plan.facts.cluster.database.podIp = facts.database.podIp;
}
