import type { KubeConfig } from '@kubernetes/client-node';
import { reportFiles } from '../domain/report/report.ts';
import { compareFingerprintFiles } from './artifacts/compare.ts';
import { copyIn, copyOut } from './artifacts/copy.ts';
import { verifiedPath, writeArtifact, type ArtifactStore } from './artifacts/store.ts';
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
  return {
    artifactStore: async () => store,

    copyOut: (arg) => copyOut(kubeConfig, store, arg),

    async copyIn(arg) {
      await checkCluster(kube, arg.world);
      return copyIn(kubeConfig, store, arg);
    },

    async compareFingerprints({ world, a, b }) {
      return compareFingerprintFiles(await verifiedPath(store, world, a), await verifiedPath(store, world, b));
    },

    async editManifest({ world, spec, database, source }) {
      const edited = editManifest(spec, database, source);
      return Promise.all(
        edited.map(({ name, text }) => writeArtifact(store, world, `manifests/${safeName(name)}`, text)),
      );
    },

    async writeReport({ world, state }) {
      const files = reportFiles(state);
      return Promise.all(files.map(({ name, text }) => writeArtifact(store, world, name, text)));
    },
  };
}

/** A manifest's path as the operator wrote it may lead out of a folder; its last parts are enough to know it again. */
function safeName(name: string): string {
  const parts = name.split(/[\\/]+/).filter((part) => part !== '' && part !== '.' && part !== '..');
  return parts.slice(-3).join('/') || 'manifest.yaml';
}
