import type { World, WorkloadRef } from '../../domain/facts.ts';
import { fail } from '../errors.ts';
import type { Kind, Kube, ObjectName, Resource } from './client.ts';

export const upgradeLabel = 'pgleap.dev/upgrade';

export const names = {
  candidate: (world: World) => `pgleap-${world.upgradeId}-candidate`,
  scratch: (world: World) => `pgleap-${world.upgradeId}-scratch`,
  journal: (upgradeId: string) => `pgleap-${upgradeId}-journal`,
  eraser: (world: World) => `pgleap-${world.upgradeId}-eraser`,
  /** PVs that pgleap makes on the way back. */
  original: (world: World) => `pgleap-${world.upgradeId}-original`,
  clone: (world: World) => `pgleap-${world.upgradeId}-clone`,
  lease: (workload: { name: string }) => `pgleap-${workload.name}`,
};

interface Meta {
  name?: string;
  uid?: string;
  labels?: Record<string, string>;
  creationTimestamp?: string;
}

export async function clusterUid(kube: Kube): Promise<string> {
  const { metadata } = await kube.get('Namespace', { name: 'kube-system' });
  return metadata?.uid ?? '';
}

/** Throws WrongWorld when this is not the cluster of the plan. Called before every change. */
export async function checkCluster(kube: Kube, world: World): Promise<void> {
  const uid = await clusterUid(kube);
  if (uid !== world.clusterUid) {
    throw fail(
      'WrongWorld',
      `the cluster at ${kube.kc.getCurrentCluster()?.server} is not the one of the plan: its kube-system has uid ${uid}, ` +
        `planned was ${world.clusterUid}; point the worker's kubeconfig at the cluster of the plan`,
    );
  }
}

/** Reads an object and throws WrongWorld unless it is the recorded one. */
export async function getRecorded<K extends Kind>(
  kube: Kube,
  kind: K,
  at: ObjectName,
  uid: string,
): Promise<Resource<K>> {
  const object = await kube.get(kind, at);
  if (object.metadata?.uid !== uid) throw strange(kind, at, `has uid ${object.metadata?.uid}, planned was ${uid}`);
  return object;
}

/** The workload of the plan, after comparing the cluster too. */
export async function getWorkload(
  kube: Kube,
  world: World,
  ref: Pick<WorkloadRef, 'kind' | 'namespace' | 'name' | 'uid'>,
): Promise<Resource<'Deployment' | 'StatefulSet'>> {
  await checkCluster(kube, world);
  return await getRecorded(kube, ref.kind, ref, ref.uid);
}

export function strange(kind: Kind, at: ObjectName, why: string): Error {
  const where = at.namespace === undefined ? at.name : `${at.namespace}/${at.name}`;
  return fail('WrongWorld', `${kind} ${where} ${why}; somebody changed it since the plan: look at it and plan again`);
}

/**
 * Whether pgleap made this object in this upgrade: it carries the id and is not older. API servers keep whole seconds and
 * their clocks are not ours, so some minutes are allowed for.
 */
export function isOurs(object: { metadata?: Meta }, world: World): boolean {
  const { labels, creationTimestamp } = object.metadata ?? {};
  return (
    labels?.[upgradeLabel] === world.upgradeId &&
    creationTimestamp !== undefined &&
    Date.parse(creationTimestamp) >= Date.parse(world.startedAt) - 5 * 60_000
  );
}
