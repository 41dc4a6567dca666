/** Where an activity of the worker stands still. `looking`: it asked once, and is to ask again. */
export interface Boundary {
  activity: string;
  /** Temporal's, the same for every attempt. */
  id: string;
  moment: 'before' | 'inside' | 'looking' | 'after';
}
