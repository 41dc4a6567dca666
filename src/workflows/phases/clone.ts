/**
 * clone: a copy of the original volume at the provider.
 *
 * 1. Start the clone, under a label that names this upgrade.
 * 2. Wait until it is active. Gate replace is open meanwhile: the answer may come first, replace waits for both.
 *
 * Left out when the spec says `clone: none`.
 *
 * Undone by: the clone removed, after the old world stands again with data that was seen to be as before.
 * Killed here: a clone that this upgrade began is found by its label and its age.
 */
import { plannedCloneLabel } from '../../domain/plan.ts';
import { act } from '../activities.ts';
import { needed, note, resolved, show, willUndo, type Run } from '../run.ts';

export async function clone(run: Run): Promise<void> {
  const { world, spec, plan } = resolved(run);
  const volume = needed(plan.facts.volume, 'the volume at the provider');
  const label = plannedCloneLabel(spec, plan.facts, world.upgradeId);
  await willUndo(run, {
    id: 'clone/volume',
    phase: 'clone',
    says: `remove the clone ${label}`,
    activity: 'removeClone',
    args: { world, source: volume, label },
    last: true,
  });
  const made = await act('startClone', `clone ${volume.label} as ${label}`, { world, volume, label });
  run.gathered.clone = made;
  show(run);

  await act('awaitClone', `wait until ${label} is active`, { world, clone: made });
  run.gathered.cloneActive = true;
  note(run, 'clone', `${label} (${made.id}) is active`);
}
