/** Where an activity of the worker stands still. `looking`: it asked once, and is to ask again. */
export interface Boundary {
  activity: string;
  /** Temporal's, the same for every attempt. */
  id: string;
  moment: 'before' | 'inside' | 'looking' | 'after';
  /** What one attempt may take; more than a few calls do. */
  long: boolean;
}

/** One activity of an upgrade that nothing harmed, as it was met. */
export interface Place {
  activity: string;
  long: boolean;
  /** In the order in which they were met, the first of which is `before`. */
  moments: Boundary['moment'][];
}
