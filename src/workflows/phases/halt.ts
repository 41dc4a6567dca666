/**
 * halt: the original volume is at rest.
 *
 * 1. The source's workload to 0.
 * 2. Pods gone, VolumeAttachment gone; the volume detached at the provider.
 *
 * Undone by: the source at 1 again, on its own volume.
 * Killed here: a workload at 0 and a detached volume are found as such.
 */
import { act } from '../activities.ts';
import { database, note, resolved, willUndo, type Run } from '../run.ts';

export async function halt(run: Run): Promise<void> {
  const { world, plan } = resolved(run);
  await willUndo(run, {
    id: 'halt/source',
    phase: 'halt',
    says: 'start the source again on its own volume',
    activity: 'restartSource',
    args: { world, database: database(run) },
    last: false,
  });
  await act('haltDatabase', 'source to 0', { world, database: database(run) });
  await act('awaitDetached', `wait until volume ${plan.facts.volume.id} is detached`, {
    world,
    volume: plan.facts.volume,
  });
  note(run, 'halt', `volume ${plan.facts.volume.label} is detached`);
}
