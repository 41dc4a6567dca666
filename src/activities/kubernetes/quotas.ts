import type { V1Container } from '@kubernetes/client-node';
import type { Check } from '../../domain/checks.ts';
import type { ClaimFact } from '../../domain/facts.ts';
import type { Json, Kube } from './client.ts';
import { bytesOf } from './quantity.ts';

/** Of a quantity of any kind: `250m` is 0.25. NaN when it is none. */
function amountOf(quantity: string | undefined): number {
  const [, milli] = /^(\d+(?:\.\d+)?)m$/.exec(quantity ?? '') ?? [];
  return milli === undefined ? (bytesOf(quantity ?? '') ?? NaN) : Number(milli) / 1000;
}

/**
 * Whether ResourceQuotas and LimitRanges of the database's namespace leave room for what an upgrade adds: one pod with the
 * database's resources and one claim, both until gate cleanup. The new claim takes the place of the old one. Quotas with
 * scopes are left to the API server.
 */
export async function quotaChecks(
  kube: Kube,
  namespace: string,
  container: Json<V1Container>,
  claim: Pick<ClaimFact, 'capacityBytes' | 'storageClass'>,
): Promise<Check[]> {
  const [quotas, ranges] = await Promise.all([
    kube.list('ResourceQuota', { namespace }),
    kube.list('LimitRange', { namespace }),
  ]);
  const limits = ranges.flatMap((range) => range.spec?.limits ?? []);
  const { requests = {}, limits: most = {} } = container.resources ?? {};
  const ofContainer = limits.filter(({ type }) => type === 'Container');
  // The SDK's type has its own name for it; on the wire it is `default`.
  const byDefault = (kind: 'default' | 'defaultRequest', name: string) =>
    ofContainer
      .map((one: { default?: Record<string, string>; defaultRequest?: Record<string, string> }) => one[kind]?.[name])
      .find((one) => one !== undefined);
  const limit = (name: string) => most[name] ?? byDefault('default', name);
  const request = (name: string) => requests[name] ?? byDefault('defaultRequest', name) ?? limit(name);
  const storage = claim.capacityBytes;
  const ofClass = `${claim.storageClass}.storageclass.storage.k8s.io`;
  /** What the upgrade adds; a quantity that nobody sets is refused under a quota. */
  const added: Record<string, number> = {
    pods: 1,
    'count/pods': 1,
    persistentvolumeclaims: 1,
    'count/persistentvolumeclaims': 1,
    [`${ofClass}/persistentvolumeclaims`]: 1,
    'requests.storage': storage,
    [`${ofClass}/requests.storage`]: storage,
    cpu: amountOf(request('cpu')),
    memory: amountOf(request('memory')),
    'requests.cpu': amountOf(request('cpu')),
    'requests.memory': amountOf(request('memory')),
    'limits.cpu': amountOf(limit('cpu')),
    'limits.memory': amountOf(limit('memory')),
  };
  const problems: string[] = [];
  for (const { metadata, spec, status } of quotas) {
    if ((spec?.scopes?.length ?? 0) > 0 || spec?.scopeSelector !== undefined) continue;
    for (const [name, hard] of Object.entries(status?.hard ?? spec?.hard ?? {})) {
      const more = added[name];
      if (more === undefined) continue;
      const used = status?.used?.[name] ?? '0';
      if (Number.isNaN(more)) {
        problems.push(
          `ResourceQuota ${metadata?.name} wants ${name} of every pod, and the database’s container sets none`,
        );
      } else if (amountOf(used) + more > amountOf(hard)) {
        const text = more === storage ? `${Math.ceil(more / 2 ** 30)}Gi` : String(more);
        problems.push(
          `ResourceQuota ${metadata?.name} allows ${name} ${hard}, ${used} is used, and ${text} more is needed`,
        );
      }
    }
  }
  for (const { type, max } of limits) {
    const largest = max?.['storage'];
    if (type === 'PersistentVolumeClaim' && largest !== undefined && storage > amountOf(largest)) {
      problems.push(
        `a LimitRange allows claims of ${largest} at most, and ${Math.ceil(storage / 2 ** 30)}Gi is needed`,
      );
    }
  }
  if (quotas.length === 0 && limits.length === 0) return [];
  if (problems.length === 0) {
    return [
      {
        id: 'kube.quota',
        status: 'PASSED',
        message: `The quotas of ${namespace} leave room for candidate and scratch.`,
      },
    ];
  }
  return [
    {
      id: 'kube.quota',
      status: 'FAILED',
      message: `Namespace ${namespace} has no room for candidate and scratch volume: ${problems.join('; ')}.`,
      remedy: `Raise it for the time of the upgrade (kubectl -n ${namespace} edit resourcequota,limitrange), or free some.`,
    },
  ];
}
