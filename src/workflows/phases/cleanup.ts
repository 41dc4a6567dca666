/**
 * cleanup: what was kept for a way back is removed, because a person said so.
 *
 * 1. The clone, the original PV with its volume, the scratch volume.
 *
 * Undone by: nothing; this is what gate cleanup asks for.
 * Killed here: what is gone already is found gone.
 */
import { ApplicationFailure } from '@temporalio/workflow';
import { missingForCleanup } from '../../domain/laws.ts';
import { act } from '../activities.ts';
import { all, database, needed, note, resolved, type Run } from '../run.ts';

export async function cleanup(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
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
