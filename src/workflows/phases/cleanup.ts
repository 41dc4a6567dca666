/**
 * cleanup: what was kept for a way back is removed, because a person said so.
 *
 * 1. The clone, the original PV with its volume, the scratch volume. Begun again when the approval has lapsed: it is asked for again.
 *
 * Undone by: nothing; this is what gate cleanup asks for.
 * Killed here: what is gone already is found gone.
 */
import { ApplicationFailure, patched } from '@temporalio/workflow';
import { missingForCleanup } from '../../domain/laws.ts';
import { phaseRow } from '../../domain/state.ts';
import { act } from '../activities.ts';
import { gate, stillApproved } from '../gates.ts';
import { all, database, needed, note, resolved, type Run } from '../run.ts';

export async function cleanup(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  if (!(await stillMeant(run))) {
    note(run, 'cleanup', 'nothing more is removed: what was approved had lapsed, and was not approved again');
    return;
  }
  const missing = missingForCleanup(run.status);
  if (missing.length > 0) {
    throw ApplicationFailure.nonRetryable(`Nothing is removed without ${missing.join(', ')}.`, 'Refused');
  }
  const { volume } = plan.facts;
  const name = volume?.label ?? database(run).volume.handle;
  const copies = volume === null ? [] : [{ source: volume, label: needed(run.gathered.clone, 'the clone').label }];
  await all([
    ...copies.map((copy) => act('removeClone', `remove the clone ${copy.label}`, { world, ...copy })),
    act('removeOriginal', `remove the original volume ${name}`, { world, database: database(run), volume }),
    act('removeScratch', 'remove the scratch volume', { world }),
  ]);
  note(run, 'cleanup', `removed ${[...copies.map(({ label }) => label), name].join(', ')} and the scratch volume`);
}

/** A failure may have waited for its answer for weeks. */
async function stillMeant(run: Run): Promise<boolean> {
  if (phaseRow(run.status, 'cleanup').tries === 1 || !patched('cleanup-asks-again')) return true;
  while (!stillApproved(run, 'cleanup')) if (!(await gate(run, 'cleanup'))) return false;
  return true;
}
