/** Where an activity of the worker stands still. `looking`: it asked once, and is to ask again. */
export interface Boundary {
  /** Its name, and with `:` before it what it is about, where that tells apart what runs many times in no order. */
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

/** What tells these apart is the same when a phase is begun again: names without the numbers of tries and pods. */
const abouts: Record<string, (arg: { name: string; undos: { id: string }[]; undoId: string }) => string> = {
  // source-before-1, source-back-<pod>-<transaction>, target-1-<pod>
  fingerprint: ({ name }) => /^source-[a-z]+|^[a-z]+/.exec(name)?.[0] ?? name,
  importDump: ({ name }) => name.replace(/-.*/, ''),
  // fingerprint-trial-2.txt
  copyOut: ({ name }) => name.replace(/(-\d.*)?\..*/, ''),
  // All services or routes have one entry each, and count as one.
  journalUndo: ({ undos: [first] }) => kindOf(first?.id ?? ''),
  journalUndone: ({ undoId }) => kindOf(undoId),
};

export function nameOf(activity: string, [arg]: unknown[]): string {
  const about = abouts[activity];
  return about === undefined ? activity : `${activity}:${about(arg as Parameters<typeof about>[0])}`;
}

function kindOf(undo: string): string {
  const [phase = '', what = ''] = undo.split('/');
  // Of maintain there are only routes.
  return phase === 'maintain' ? phase : `${phase}/${what}`;
}

/** What Temporal calls it. */
export function typeOf(activity: string): string {
  return activity.replace(/:.*/, '');
}
