/**
 * preflight: read everything that can fail, and make the plan.
 *
 * 1. Read the spec; compare the workflow's id with it: the id is the lock.
 * 2. Look at cluster, routes, source and volume; make the plan and its hash.
 * 3. A FAILED check refuses the upgrade with the list of all of them.
 *
 * Undone by: nothing, for nothing is changed.
 * Killed here: it is read again.
 */
import { ApplicationFailure, workflowInfo } from '@temporalio/workflow';
import { whyNeverApproved } from '../../domain/approvals.ts';
import { act } from '../activities.ts';
import { checkWorkflowId, makePlan, refusal } from '../plan.ts';
import { note, show, wasReset, type Run } from '../run.ts';

/** `input` is whatever the starter sent. */
export function preflight(input: unknown): (run: Run) => Promise<void> {
  return async (run) => {
    const spec = await act('resolveSpec', 'read the spec', input);
    const manifests = spec.database.manifests.map(({ name }) => ({ name, text: '' }));
    run.status.spec = { ...spec, database: { ...spec.database, manifests } };
    checkWorkflowId(workflowInfo().workflowId, spec);
    const never = whyNeverApproved(spec, run.status.startedBy);
    if (never !== null) throw ApplicationFailure.nonRetryable(never, 'SpecInvalid');

    const plan = await makePlan(spec);
    run.status.plan = plan;
    show(run);

    const refused = refusal(plan.checks, wasReset() ? 'what was changed before the reset stands' : undefined);
    if (refused) throw refused;
    const { facts, hash } = plan;
    if (!facts || hash === null) throw new TypeError('facts are missing although no check FAILED');

    const world = {
      clusterUid: facts.cluster.clusterUid,
      upgradeId: run.status.upgradeId,
      startedAt: run.status.startedAt,
      namespace: facts.cluster.database.workload.namespace,
    };
    run.status.world = world;
    run.resolved = { spec, plan: { ...plan, facts, hash }, world };
    run.status.plan = run.resolved.plan;
    note(run, 'preflight', `${plan.checks.length} checks, plan ${hash.slice(0, 12)}`);
  };
}
