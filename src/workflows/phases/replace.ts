/**
 * replace: a new, empty volume under the old claim's name.
 *
 * 1. Look once more whether everything is there that must be: dump, trial, clone, Retain, approval.
 * 2. Seen that services are still at 0 and the source too, delete the claim, with its uid as precondition; its PV stays, Released. A new claim of the same name, never smaller.
 *
 * An approval that has lapsed by then, because this was parked or nobody was there to do it, is asked for again; not once the
 * claim was deleted.
 *
 * Undone by: the claim bound to the original PV again (to a new PV, or to the clone, where that is gone); the new volume goes.
 * Killed here: a claim of the old uid is deleted once, a claim of this upgrade is found.
 */
import { ApplicationFailure } from '@temporalio/workflow';
import { missingForReplace } from '../../domain/laws.ts';
import { plannedCloneLabel } from '../../domain/plan.ts';
import { act } from '../activities.ts';
import { approvedUntil, gate, noteLapse } from '../gates.ts';
import { failureOf } from '../park.ts';
import { atRest, database, needed, note, resolved, willUndo, type Run } from '../run.ts';

export async function replace(run: Run): Promise<void> {
  for (;;) {
    try {
      return await replaceOnce(run);
    } catch (error) {
      if (failureOf(run, error).type !== 'ApprovalLapsed') throw error;
      noteLapse(run, 'replace');
      await gate(run, 'replace');
    }
  }
}

async function replaceOnce(run: Run): Promise<void> {
  const { world, spec, plan } = resolved(run);
  const { claim, volume } = database(run);
  const missing = missingForReplace(run.status);
  if (missing.length > 0) {
    throw ApplicationFailure.nonRetryable(`The volume is not replaced without ${missing.join(', ')}.`, 'Refused');
  }

  // The gate may have waited for hours, and the clone is what is left when all else fails.
  if (spec.clone !== 'none') {
    await act('awaitClone', 'see that the clone is still there', {
      world,
      clone: needed(run.gathered.clone, 'the clone'),
    });
  }
  await willUndo(run, {
    id: 'replace/claim',
    phase: 'replace',
    says: `bind ${claim.name} to the original volume ${volume.pv} again`,
    activity: 'rebindOriginal',
    args: {
      world,
      database: database(run),
      volume: plan.facts.volume,
      cloneLabel: plannedCloneLabel(spec, plan.facts, world.upgradeId),
    },
    last: false,
  });
  const made = await act('replaceClaim', `a new volume under ${claim.name}`, {
    world,
    database: database(run),
    minBytes: claim.capacityBytes,
    atRest: atRest(run),
    approvedUntil: approvedUntil(run, 'replace'),
  });
  run.gathered.newClaim = made;
  note(run, 'replace', `${claim.name} is ${made.pv} now; ${volume.pv} stays, Released`);
}
