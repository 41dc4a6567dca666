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
