/**
 * deploy: the target starts on the new volume, fenced.
 *
 * 1. Image and what the target major needs, in the cluster; the target comes up with a fence and fast-load settings.
 * 2. Beside it, the operator's manifests edited with their comments kept, as artifacts.
 *
 * Undone by: the workload at 0, its template as it was before.
 * Killed here: a template that has been patched already is found as such.
 */
import type { ServerRef } from '../../domain/facts.ts';
import { act } from '../activities.ts';
import { all, database, note, onArtifacts, resolved, willUndo, type Run } from '../run.ts';

export async function deploy(run: Run): Promise<void> {
  const { world, spec, plan } = resolved(run);
  await willUndo(run, {
    id: 'deploy/template',
    phase: 'deploy',
    says: `template of ${database(run).workload.name} with ${database(run).image} again`,
    activity: 'restoreTemplate',
    args: { world, database: database(run) },
    last: false,
  });
  const [, manifests] = await all([
    fencedTarget(run),
    onArtifacts(run, 'editManifest', 'edit the manifests', {
      world,
      spec,
      database: database(run),
      source: plan.facts.source,
    }),
  ]);
  const names = new Set(manifests.map(({ name }) => name));
  run.gathered.artifacts = [...run.gathered.artifacts.filter(({ name }) => !names.has(name)), ...manifests];
  note(run, 'deploy', `${spec.target.image} runs on the new volume; nobody can log in`);
}

/** The fenced target, in its pod of now: begun if need be, and found again when its pod was replaced. */
export async function fencedTarget(run: Run): Promise<ServerRef> {
  const { world, spec, plan } = resolved(run);
  const target = await act('deployTarget', `${spec.target.image}, fenced`, {
    world,
    spec,
    database: database(run),
    source: plan.facts.source,
  });
  run.gathered.target = target;
  return target;
}
