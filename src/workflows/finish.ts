/**
 * Finishes an upgrade that was stopped after its commit point: the target open, services and CronJobs on, routes as they were.
 * For `pgleap recover`; the workflow itself goes on with its phases.
 */
import type { World } from '../domain/facts.ts';
import type { Compared, OldWorld } from '../domain/old-world.ts';
import type { RegisteredUndo, Undo } from '../domain/undo.ts';
import { compare, type Way } from './go-back.ts';

/** What would lead back to the old volume, or removes what a later way back needs. */
const waysBack: ReadonlySet<Undo['activity']> = new Set([
  'restoreReclaimPolicy',
  'removeScratch',
  'releaseLease',
  'liftSourceFence',
  'restartSource',
  'rebindOriginal',
  'restoreTemplate',
  'removeClone',
]);

/** Services first, visitors after them. Returns services and routes beside what they were. */
export async function finishReopening(
  way: Way,
  { world, undos, old }: { world: World; undos: RegisteredUndo[]; old: OldWorld },
): Promise<Compared[]> {
  await way.call('openTarget', 'open the target', { world, database: old.database });
  await way.all(
    undos.flatMap((undo) =>
      // Not startService: one that was deleted or scaled by others meanwhile must not keep the rest from being finished.
      undo.activity === 'restoreService' ? [way.call('restoreService', undo.says, undo.args)] : [],
    ),
  );
  const others = undos.filter(
    ({ activity, last }) => !last && activity !== 'restoreService' && !waysBack.has(activity),
  );
  const call = (name: string, says: string, arg: unknown) =>
    (way.call as (n: string, s: string, a: unknown) => Promise<unknown>)(name, says, arg);
  await way.all(others.map(({ activity, says, args }) => call(activity, says, args)));
  await way.call('removeCandidate', 'remove the candidate', { world });
  const seen = await compare(way, world, old, undos);
  return seen.filter(({ area }) => area === 'service' || area === 'route');
}
