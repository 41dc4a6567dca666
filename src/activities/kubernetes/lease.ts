import type { World } from '../../domain/facts.ts';
import { fail } from '../errors.ts';
import type { Kube, Resource } from './client.ts';
import { checkCluster, isOurs, names, upgradeLabel } from './identity.ts';

/** How long a recovery counts as alive after it last said so. */
const aliveMs = 20_000;

/**
 * Makes `holder` the Lease's holder, whether its upgrade is still named there or nobody is. Throws Locked when another upgrade
 * holds it, or another recovery of this one has been alive lately. Resolves with what must be called every few seconds.
 */
export async function takeOver(
  kube: Kube,
  world: World,
  workload: { name: string },
  holder: string,
): Promise<() => Promise<void>> {
  await checkCluster(kube, world);
  const at = { namespace: world.namespace, name: names.lease(workload) };
  const lease = await kube.find('Lease', at);
  const now = new Date();
  const mine = { holderIdentity: holder, renewTime: microTime(now), leaseDurationSeconds: aliveMs / 1000 };
  if (lease === undefined) {
    await kube.create('Lease', {
      metadata: { ...at, labels: { [upgradeLabel]: world.upgradeId } },
      spec: { ...mine, acquireTime: microTime(now) },
    });
  } else {
    if (!isOurs(lease, world)) throw fail('Locked', lockedBy(workload, world.namespace, lease));
    const { holderIdentity = '', renewTime } = lease.spec ?? {};
    if (renewTime !== undefined && holderIdentity !== holder && now.getTime() - Date.parse(renewTime) < aliveMs) {
      throw fail('Locked', `${holderIdentity} is at it, and was alive at ${renewTime}`);
    }
    const metadata = { resourceVersion: lease.metadata?.resourceVersion };
    await kube.patch('Lease', at, { metadata, spec: mine });
  }
  return async () => {
    const held = await kube.find('Lease', at);
    if (held?.spec?.holderIdentity !== holder) return;
    const metadata = { resourceVersion: held.metadata?.resourceVersion };
    await kube.patch('Lease', at, { metadata, spec: { renewTime: microTime(new Date()) } });
  };
}

export function lockedBy(workload: { name: string }, namespace: string, lease: Resource<'Lease'>): string {
  const holder = lease.spec?.holderIdentity ?? 'an unknown holder';
  const since = lease.spec?.acquireTime === undefined ? '' : ` since ${lease.spec.acquireTime}`;
  return (
    `${workload.name} in ${namespace} is being upgraded by ${holder} (upgrade ${lease.metadata?.labels?.[upgradeLabel] ?? 'unknown'})${since}: ` +
    `it holds the lease ${names.lease(workload)}. If that upgrade was aborted or terminated: pgleap recover ${namespace}/${workload.name}`
  );
}

/** Kubernetes' MicroTime wants six digits. */
export function microTime(date: Date): string {
  return date.toISOString().replace(/(\.\d{3})Z$/, '$1000Z');
}
