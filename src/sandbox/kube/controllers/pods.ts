import { createHash, randomBytes } from 'node:crypto';
import { applyDefaults } from '../defaults.ts';
import { controllerOf, ownerReference } from '../objects.ts';
import type { AnyObject, LabelSelector, Pod, PodTemplate } from '../objects.ts';
import { matches } from '../selectors.ts';
import type { Store, Unstamped } from '../store.ts';

const letters = 'bcdfghjklmnpqrstvwxz2456789';

function spell(bytes: Buffer): string {
  return [...bytes].map((byte) => letters[byte % letters.length]).join('');
}

export function randomSuffix(): string {
  return spell(randomBytes(5));
}

/** A short name for the content of a template, the same for equal templates. */
export function templateHash(template: PodTemplate): string {
  return spell(createHash('sha256').update(canonical(template)).digest().subarray(0, 10));
}

function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`;
  if (typeof value !== 'object' || value === null) return JSON.stringify(value);
  const entries = Object.entries(value)
    .filter(([, one]) => one !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1));
  return `{${entries.map(([key, one]) => `${JSON.stringify(key)}:${canonical(one)}`).join(',')}}`;
}

export function podsOf(store: Store, owner: AnyObject): Pod[] {
  return store
    .list('pods', owner.metadata.namespace ?? '')
    .filter((pod) => controllerOf(pod)?.uid === owner.metadata.uid);
}

/** Makes a controller the owner of what its selector matches and nobody controls. */
export function adopt(
  store: Store,
  resource: 'pods' | 'replicasets',
  owner: AnyObject & { spec: { selector?: LabelSelector } },
): void {
  for (const { metadata } of store.list(resource, owner.metadata.namespace ?? '')) {
    if (metadata.deletionTimestamp !== undefined || !matches(owner.spec.selector, metadata.labels)) continue;
    if (metadata.ownerReferences?.some((one) => one.controller === true)) continue;
    store.mutate(resource, metadata.namespace ?? '', metadata.name, (draft) => {
      draft.metadata.ownerReferences = [...(draft.metadata.ownerReferences ?? []), ownerReference(owner)];
    });
  }
}

/** Makes a pod of a controller's template. */
export function createPod(
  store: Store,
  owner: AnyObject,
  template: PodTemplate,
  pod: { name: string; labels?: Record<string, string>; change?: (spec: Pod['spec']) => void },
): Pod {
  const spec = structuredClone(template.spec) as Pod['spec'];
  pod.change?.(spec);
  const { annotations } = template.metadata ?? {};
  const object: Unstamped<'pods'> = {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: {
      name: pod.name,
      namespace: owner.metadata.namespace ?? '',
      labels: { ...template.metadata?.labels, ...pod.labels },
      ...(annotations === undefined ? {} : { annotations }),
      ownerReferences: [ownerReference(owner)],
    },
    spec,
  };
  applyDefaults('pods', object as Pod);
  return store.insert('pods', object);
}

/** Sets a condition; its transition time moves only with its status. True when it changed. */
export function setCondition<T extends { type: string; status: string; lastTransitionTime?: string }>(
  conditions: T[],
  condition: T,
): T[] {
  const before = conditions.find((one) => one.type === condition.type);
  const kept = before?.status === condition.status ? before.lastTransitionTime : undefined;
  const next = kept === undefined ? condition : { ...condition, lastTransitionTime: kept };
  return [...conditions.filter((one) => one.type !== condition.type), next].sort((a, b) => (a.type < b.type ? -1 : 1));
}
