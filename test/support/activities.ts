import { KubeConfig } from '@kubernetes/client-node';
import { createActivities } from '../../src/activities/index.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import type { SharedActivities } from '../../src/activities/types.ts';
import type { WorldAddress } from '../../src/sandbox/world/raise.ts';

/** All of a worker's activities of the shared queue, in a world; `folder` is where its artifacts lie. */
export function activitiesIn(
  { kubeconfig, linode, cloudflare }: WorldAddress,
  folder: string,
): { kube: Kube; activities: SharedActivities } {
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(kubeconfig);
  const { shared } = createActivities(
    {
      kubeConfig,
      linodeToken: linode.token,
      linodeUrl: linode.url,
      cloudflareToken: cloudflare.token,
      cloudflareUrl: cloudflare.url,
      notifyUrl: undefined,
    },
    { folder, queue: 'none' },
  );
  return { kube: createKube(kubeConfig), activities: shared };
}
