import type { KubeConfig } from '@kubernetes/client-node';
import type { BlockVolumeFact, World } from '../../domain/facts.ts';
import { beating } from '../context.ts';
import type { CleanupActivities, ClusterActivities, PreflightActivities, UndoActivities } from '../types.ts';
import { createCandidateActivities } from './candidate.ts';
import { createKube } from './client.ts';
import { compareOldWorld } from './compare.ts';
import { createDatabaseActivities } from './database.ts';
import { inspectCluster } from './inspect.ts';
import { createJournalActivities } from './journal.ts';
import { createRestActivities } from './rest.ts';
import { createServiceActivities } from './services.ts';
import type { VolumeProvider } from './old-volume.ts';
import { createVolumeActivities } from './volumes.ts';
import { unmark } from './workloads.ts';

export type KubernetesActivities = Pick<PreflightActivities, 'inspectCluster'> &
  ClusterActivities &
  Pick<
    UndoActivities,
    | 'restoreReclaimPolicy'
    | 'removeCandidate'
    | 'removeScratch'
    | 'releaseLease'
    | 'restoreService'
    | 'restoreCronJob'
    | 'resumeReconciler'
    | 'restartSource'
    | 'rebindOriginal'
    | 'restoreTemplate'
  > &
  CleanupActivities;

/**
 * Everything that talks to Kubernetes. `removeVolume` deletes the original volume at the provider: under Retain it stays
 * there when its PV goes, so removeOriginal does one after the other. Of an upgrade without a clone the driver deletes it.
 */
export function createKubernetesActivities(deps: {
  kubeConfig: KubeConfig;
  removeVolume: (arg: { world: World; volume: BlockVolumeFact }) => Promise<void>;
  provider: VolumeProvider;
}): KubernetesActivities {
  const kube = createKube(deps.kubeConfig);
  const { removeReleasedVolume, ...volumes } = createVolumeActivities(kube, deps.provider);
  return beating({
    inspectCluster: ({ spec }) => inspectCluster(kube, spec),
    ...createJournalActivities(kube),
    ...volumes,
    ...createCandidateActivities(kube),
    ...createServiceActivities(kube),
    ...createRestActivities(kube),
    ...createDatabaseActivities(kube),
    compareOldWorld: ({ world, old }) => compareOldWorld(kube, world, old),
    async removeOriginal({ world, database, volume }) {
      await removeReleasedVolume({ world, database, byDriver: volume === null });
      if (volume !== null) await deps.removeVolume({ world, volume });
      await unmark(kube, world, database.workload);
    },
  });
}
