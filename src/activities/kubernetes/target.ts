import type { DatabaseFact, SourceFacts } from '../../domain/facts.ts';
import { targetLayout } from '../../domain/pgdata.ts';
import type { Spec } from '../../domain/spec.ts';
import { majorOfImage } from '../../domain/versions.ts';
import type { Kube } from './client.ts';
import { envValue } from './env.ts';
import { claimMount, containerOf, lastingSpec, type WorkloadSpec } from './template.ts';

/** The target's lasting form, worked out from the workload as it is in the cluster now. Nothing is changed. */
export interface TargetPlan {
  spec: WorkloadSpec;
  /** PGDATA as the target will have it; null while its major is not known. */
  pgdata: string | null;
}

/** What the spec says of the target's major; null when only the image itself can tell. */
export function namedMajor(spec: Spec): number | null {
  return spec.target.major ?? majorOfImage(spec.target.image);
}

/**
 * Puts the spec's patch (merged by the API server, in a dry run), image and PGDATA into the workload's present spec.
 * Returns why it cannot work instead, in one sentence. Throws Refused when the API server takes the patch for invalid.
 * Without a major PGDATA is left as it is: enough for the candidate, which has its own.
 */
export async function planTarget(
  kube: Kube,
  spec: Spec,
  database: Pick<DatabaseFact, 'workload' | 'claim'> & { pod: { container: string } },
  source: Pick<SourceFacts, 'major' | 'dataDirectory'>,
  major: number | null,
): Promise<TargetPlan | { problem: string }> {
  const { workload, claim, pod } = database;
  const merged =
    spec.target.patch === undefined
      ? await kube.get(workload.kind, workload)
      : await kube.patch(workload.kind, workload, spec.target.patch, { strategic: true, dryRun: true });
  if (merged.spec === undefined) return { problem: `${workload.kind} ${workload.name} has no spec` };
  const container = containerOf(merged.spec, pod.container);
  if (container === undefined) return { problem: `target.patch leaves no container ${pod.container}` };
  const claimed = claimMount(merged.spec, pod.container, claim.name);
  if (claimed === undefined)
    return { problem: `target.patch leaves claim ${claim.name} unmounted in container ${pod.container}` };
  if (major === null) {
    const unplaced = lastingSpec(merged.spec, { container: pod.container, image: spec.target.image, pgdata: null });
    return { spec: unplaced, pgdata: null };
  }
  const layout = targetLayout({
    major,
    explicit: await envValue(kube, workload.namespace, container, 'PGDATA'),
    mountPath: claimed.mount.mountPath,
    subPath: claimed.mount.subPath ?? null,
    sourceMajor: source.major,
    sourceDataDirectory: source.dataDirectory,
  });
  if ('problem' in layout) return layout;
  const lasting = lastingSpec(merged.spec, { container: pod.container, image: spec.target.image, pgdata: layout.set });
  return { spec: lasting, pgdata: layout.path };
}
