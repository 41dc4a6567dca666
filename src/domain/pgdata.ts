/** Where the server's data lies: the rule for PGDATA across majors of the official images. */

export interface Layout {
  /** PGDATA to set in the template; null when it stays as it is. */
  set: string | null;
  /** PGDATA as the target will have it. */
  path: string;
}

/** The official image's own PGDATA, when the template sets none. */
export function defaultPgdata(major: number): string {
  return major >= 18 ? `/var/lib/postgresql/${major}/docker` : '/var/lib/postgresql/data';
}

export function isUnder(path: string, folder: string): boolean {
  const base = folder.replace(/\/+$/, '');
  return path === base || path.startsWith(`${base}/`);
}

/**
 * Decides the target's PGDATA, or says why there is none: outside of the claim's mount the data would lie in the container
 * and be lost with it, and the root of a volume is not empty (lost+found), which initdb refuses.
 */
export function targetLayout(target: {
  major: number;
  /** PGDATA that the target's template sets, from whatever source; null when it sets none. */
  explicit: string | null;
  mountPath: string;
  subPath: string | null;
  sourceMajor: number;
  sourceDataDirectory: string;
}): Layout | { problem: string } {
  const { major, explicit, mountPath, subPath, sourceDataDirectory } = target;
  const own = defaultPgdata(major);
  let layout: Layout;
  if (explicit !== null) {
    layout = { set: null, path: explicit };
  } else if (
    isUnder(own, mountPath) &&
    (major >= 18
      ? // The image of 18 and later refuses to start beside a mount of the old layout.
        mountPath !== '/var/lib/postgresql/data'
      : sourceDataDirectory === defaultPgdata(target.sourceMajor))
  ) {
    layout = { set: null, path: own };
  } else {
    layout = { set: sourceDataDirectory, path: sourceDataDirectory };
  }
  if (!isUnder(layout.path, mountPath)) {
    return { problem: `PGDATA would be ${layout.path}, outside of the claim mounted at ${mountPath}` };
  }
  if (subPath === null && layout.path.replace(/\/+$/, '') === mountPath.replace(/\/+$/, '')) {
    return { problem: `PGDATA would be ${layout.path}, the root of the volume, where initdb finds lost+found` };
  }
  return layout;
}
