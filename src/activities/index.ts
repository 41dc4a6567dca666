import type { KubeConfig } from '@kubernetes/client-node';
import { createArtifactActivities } from './artifacts.ts';
import type { ArtifactStore } from './artifacts/store.ts';
import { cloudflareActivities } from './cloudflare.ts';
import { beating } from './context.ts';
import { askingJournal } from './forward.ts';
import { createKube } from './kubernetes/client.ts';
import { checkCluster } from './kubernetes/identity.ts';
import { createKubernetesActivities } from './kubernetes/index.ts';
import { requireUnused } from './kubernetes/old-volume.ts';
import { linodeActivities } from './linode.ts';
import { notifyActivities } from './notify.ts';
import { createPostgresActivities } from './postgres/index.ts';
import { specActivities } from './spec.ts';
import type { ArtifactActivities, SharedActivities } from './types.ts';

export interface ActivityDeps {
  kubeConfig: KubeConfig;
  /** Empty when none is set: preflight then FAILS for volumes that need it. */
  linodeToken: string;
  linodeUrl: string | undefined;
  cloudflareToken: string;
  cloudflareUrl: string | undefined;
  notifyUrl: string | undefined;
}

/** All activities, by the queue that serves them. Nothing is sent anywhere before the first one runs. */
export function createActivities(
  deps: ActivityDeps,
  store: ArtifactStore,
): { shared: SharedActivities; artifacts: ArtifactActivities } {
  const { kubeConfig } = deps;
  const kube = createKube(kubeConfig);
  const assertWorld = (world: Parameters<typeof checkCluster>[1]) => checkCluster(kube, world);
  const linode = linodeActivities({
    assertWorld,
    token: () => deps.linodeToken,
    ...(deps.linodeUrl === undefined ? {} : { baseUrl: deps.linodeUrl }),
  });
  const { artifactStore, ...artifacts } = createArtifactActivities({ store, kubeConfig });
  return {
    shared: askingJournal(kube, {
      ...specActivities,
      ...createKubernetesActivities({ kubeConfig, removeVolume: (arg) => linode.removeVolume(arg), provider: linode }),
      ...createPostgresActivities({ kubeConfig }),
      ...linode,
      removeClone: async (arg) => {
        await requireUnused(kube, arg.label);
        await linode.removeClone(arg);
      },
      ...beating(
        cloudflareActivities({
          assertWorld,
          token: () => deps.cloudflareToken,
          ...(deps.cloudflareUrl === undefined ? {} : { baseUrl: deps.cloudflareUrl }),
        }),
      ),
      ...notifyActivities(deps.notifyUrl),
      artifactStore,
    }),
    artifacts,
  };
}
