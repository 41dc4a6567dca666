/** What there is to recover of an upgrade, and whether it may be: no workflow may be at it. */
import { WorkflowNotFoundError } from '@temporalio/client';
import { messageOf } from '../activities/errors.ts';
import type { Kube } from '../activities/kubernetes/client.ts';
import { names, upgradeLabel } from '../activities/kubernetes/identity.ts';
import { listJournals, type Journal } from '../activities/kubernetes/journal.ts';
import { UserError } from '../domain/exit-codes.ts';
import { placeOf } from '../domain/text.ts';
import { connect } from './connection.ts';

interface Recoverable {
  upgradeId: string;
  workflowId: string;
  startedAt: string;
  /** null when none is open: then there is a Lease, which was taken before it, or again after it was closed. */
  journal: Journal | null;
}

/** `name`: `<namespace>/<workload>`, or `<namespace>/<journal>`. */
export async function findRecoverable(kube: Kube, name: string): Promise<Recoverable> {
  const [namespace = '', wanted = '', ...rest] = name.split('/');
  if (wanted === '' || rest.length > 0) {
    throw new UserError('usage', `${name} is neither NAMESPACE/WORKLOAD nor NAMESPACE/JOURNAL.`);
  }
  const workflowId = `pgleap/${namespace}/${wanted}`;
  let all: Journal[];
  let lease;
  try {
    all = await listJournals(kube, namespace);
    lease = await kube.find('Lease', { namespace, name: names.lease({ name: wanted }) });
  } catch (error) {
    throw new UserError('unreachable', messageOf(error), { cause: error });
  }
  const found = all.filter((one) => one.name === wanted || one.head.workflowId === workflowId);
  const open = found.filter(({ head }) => head.outcome === null);
  const [first, second] = open;
  if (second !== undefined) {
    const several = open.map((one) => `${namespace}/${one.name}`).join(' and ');
    throw new UserError('usage', `Which one? There are journals ${several}: name one of them.`);
  }
  if (first !== undefined) {
    const { upgradeId, startedAt } = first.head;
    return { upgradeId, workflowId: first.head.workflowId, startedAt, journal: first };
  }
  const { labels = {}, creationTimestamp } = lease?.metadata ?? {};
  const upgradeId = labels[upgradeLabel];
  if (upgradeId !== undefined && creationTimestamp !== undefined) {
    return { upgradeId, workflowId, startedAt: creationTimestamp, journal: null };
  }
  throw new UserError(
    'notFound',
    found.length === 0
      ? `Namespace ${namespace} has no journal of an upgrade of ${wanted}: nothing was begun, or it was removed.`
      : `Nothing is left to recover: ${found.map(({ name: one, head }) => `${one} was closed as ${head.outcome}`).join(', ')}.`,
  );
}

/** Throws UserError unless the workflow is seen to be over, or nobody can say and `force` takes it upon itself. */
export async function workflowState(
  workflowId: string,
  force: boolean,
): Promise<{ says: string; endedAt: number | null }> {
  let session;
  try {
    session = await connect();
  } catch (error) {
    if (!(error instanceof UserError) || error.exit !== 'noTemporal') throw error;
    if (force) return { says: 'not asked: Temporal does not answer', endedAt: null };
    throw new UserError(
      'noTemporal',
      `${error.message} So nobody can say whether ${workflowId} still runs, and two that change the same world would destroy it. ` +
        `If Temporal is lost for good and no pgleap worker runs any more: pgleap recover ${placeOf(workflowId)} --force`,
    );
  }
  try {
    const { status, closeTime } = await session.client.withDeadline(Date.now() + 10_000, () =>
      session.client.workflow.getHandle(workflowId).describe(),
    );
    if (status.name !== 'RUNNING' && status.name !== 'PAUSED') {
      return { says: status.name.toLowerCase(), endedAt: closeTime?.getTime() ?? null };
    }
    throw new UserError(
      'alreadyRunning',
      `${workflowId} still runs at ${session.address}: send it rollback, or answer what it waits for (pgleap status). Only if it ` +
        `cannot go on: temporal workflow terminate --workflow-id '${workflowId}', and then this again.`,
    );
  } catch (error) {
    if (!(error instanceof WorkflowNotFoundError)) throw error;
    if (force) return { says: 'unknown to Temporal', endedAt: null };
    throw new UserError(
      'noTemporal',
      `Temporal at ${session.address}, namespace ${session.client.options.namespace}, does not know ${workflowId}. Is it another one that the upgrade runs at? ` +
        `See TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE. If its history is gone for good and no pgleap worker runs it any more: pgleap recover ${placeOf(workflowId)} --force`,
    );
  } finally {
    await session.close();
  }
}
