import type { KubeConfig } from '@kubernetes/client-node';
import type { Artifact, World } from '../domain/facts.ts';
import { reportFiles } from '../domain/report/report.ts';
import { compareFingerprintFiles } from './artifacts/compare.ts';
import { copyIn, copyOut } from './artifacts/copy.ts';
import { guarded, verifiedPath, writeArtifact, type ArtifactStore } from './artifacts/store.ts';
import { createKube } from './kubernetes/client.ts';
import { checkCluster } from './kubernetes/identity.ts';
import { editManifest } from './kubernetes/manifest.ts';
import type { ArtifactActivities, PreflightActivities } from './types.ts';

/** Everything that reads or writes the artifact folder; served on the folder's own task queue. */
export function createArtifactActivities({
  store,
  kubeConfig,
}: {
  store: ArtifactStore;
  kubeConfig: KubeConfig;
}): ArtifactActivities & Pick<PreflightActivities, 'artifactStore'> {
  const kube = createKube(kubeConfig);

  /** One after the other: nothing is still being written when this has failed. */
  function writeAll(world: World, files: { name: string; text: string }[]): Promise<Artifact[]> {
    return guarded(store, async () => {
      const written: Artifact[] = [];
      for (const { name, text } of files) written.push(await writeArtifact(store, world, name, text));
      return written;
    });
  }

  return {
    artifactStore: async () => store,

    copyOut: (arg) => guarded(store, () => copyOut(kubeConfig, store, arg)),

    async copyIn(arg) {
      await checkCluster(kube, arg.world);
      return guarded(store, () => copyIn(kubeConfig, store, arg));
    },

    compareFingerprints: ({ world, a, b }) =>
      guarded(store, async () =>
        compareFingerprintFiles(await verifiedPath(store, world, a), await verifiedPath(store, world, b)),
      ),

    async editManifest({ world, spec, database, source }) {
      const edited = editManifest(spec, database, source);
      return writeAll(
        world,
        edited.map(({ name, text }) => ({ name: `manifests/${safeName(name)}`, text })),
      );
    },

    writeReport: async ({ world, state }) => writeAll(world, reportFiles(state)),
  };
}

/** A manifest's path as the operator wrote it may lead out of a folder; its last parts are enough to know it again. */
function safeName(name: string): string {
  const parts = name.split(/[\\/]+/).filter((part) => part !== '' && part !== '.' && part !== '..');
  return parts.slice(-3).join('/') || 'manifest.yaml';
}
