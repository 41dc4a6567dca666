import { beating, withLeave } from './context.ts';
import type { Kube } from './kubernetes/client.ts';
import { requireMayChange, requireMayStop, requireNotOver } from './kubernetes/journal.ts';
import type { SharedActivities } from './types.ts';
import type { World } from '../domain/facts.ts';

/** All that changes something before the commit point, but for what it asks of a recorded pod, which is another after it. */
const forward = [
  'setReclaimPolicy',
  'createScratch',
  'createCandidate',
  'fenceSource',
  'haltDatabase',
  'startClone',
  'replaceClaim',
  'deployTarget',
  'emptyTarget',
] as const satisfies (keyof SharedActivities)[];

/** The same, and the beginning of the way back after the commit point. */
const stopping = [
  'pauseReconciler',
  'suspendCronJob',
  'stopService',
  'setRoute',
] as const satisfies (keyof SharedActivities)[];

/**
 * The same activities, but those that go forward ask the journal first, and again before each later change. An undo is written there before its change, and refused
 * when the upgrade is over or committed; a workflow that was reset to between the two would make the change all the same, to
 * services that are live.
 */
export function askingJournal(kube: Kube, activities: SharedActivities): SharedActivities {
  const asking = (name: keyof SharedActivities, ask: (kube: Kube, world: World) => Promise<void>) => {
    const run = activities[name] as (arg: { world: World }) => Promise<unknown>;
    const asked = async (arg: { world: World }) =>
      await withLeave(
        () => ask(kube, arg.world),
        () => run(arg),
      );
    return [name, asked] as const;
  };
  const asked = [
    asking('takeLease', requireNotOver),
    ...forward.map((name) => asking(name, requireMayChange)),
    ...stopping.map((name) => asking(name, requireMayStop)),
  ];
  return { ...activities, ...beating(Object.fromEntries(asked)) };
}
