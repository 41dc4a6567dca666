import type { PhaseName } from './phases.ts';
import type { UndoActivities } from '../activities/types.ts';

/**
 * How one outside change is put back: the name of an activity and its argument, so that the journal in the cluster holds
 * enough to undo without Temporal. Undo activities observe first and succeed when there is nothing to put back.
 */
export type Undo = {
  [Name in keyof UndoActivities]: {
    /** `<phase>/<what>`, unique in an upgrade. */
    id: string;
    phase: PhaseName;
    /** One line for people: what will be put back. */
    says: string;
    activity: Name;
    args: Parameters<UndoActivities[Name]>[0];
    /** Undone after all others: things that only cost money, kept until the old world stands again. */
    last: boolean;
  };
}[keyof UndoActivities];

/** An undo in an upgrade's list. */
export type RegisteredUndo = Undo & { done: boolean };

/**
 * The order of undoing: last change first, but what is marked `last` after all others. Neighbours that are undone by the same
 * activity were changed at once, and are put back at once: a dozen services need not wait for each other.
 */
export function undoOrder(undos: readonly RegisteredUndo[]): RegisteredUndo[][] {
  const open = undos.filter(({ done }) => !done).reverse();
  const groups: RegisteredUndo[][] = [];
  for (const undo of [...open.filter(({ last }) => !last), ...open.filter(({ last }) => last)]) {
    const group = groups.at(-1);
    if (group?.[0]?.activity === undo.activity) group.push(undo);
    else groups.push([undo]);
  }
  return groups;
}
