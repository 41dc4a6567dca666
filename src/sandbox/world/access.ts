/**
 * How the sandbox's own side looks at a cluster: to build the example world, and to prove afterwards what became of it.
 * It asks the same API as everybody, so the demo's proof holds for any cluster.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ApiException,
  AppsV1Api,
  BatchV1Api,
  CoreV1Api,
  KubernetesObjectApi,
  PatchStrategy,
} from '@kubernetes/client-node';
import type { KubeConfig, KubernetesObject, V1Pod } from '@kubernetes/client-node';
import { runInPod } from '../../activities/kubernetes/exec.ts';
import type { PodRef, WorkloadKind } from '../../domain/facts.ts';

export interface Access {
  kubeConfig: KubeConfig;
  core: CoreV1Api;
  apps: AppsV1Api;
  batch: BatchV1Api;
}

export function openAccess(kubeConfig: KubeConfig): Access {
  return {
    kubeConfig,
    core: kubeConfig.makeApiClient(CoreV1Api),
    apps: kubeConfig.makeApiClient(AppsV1Api),
    batch: kubeConfig.makeApiClient(BatchV1Api),
  };
}

/** Makes or changes objects, in this order, as `kubectl apply --server-side` does. */
export async function apply({ kubeConfig }: Access, objects: KubernetesObject[]): Promise<void> {
  const client = KubernetesObjectApi.makeApiClient(kubeConfig);
  for (const object of objects) {
    await client.patch(object, undefined, undefined, 'operator', true, PatchStrategy.ServerSideApply);
  }
}

/** Undefined when the API says that there is no such object. */
export async function maybe<T>(call: Promise<T>): Promise<T | undefined> {
  try {
    return await call;
  } catch (error) {
    if (error instanceof ApiException && error.code === 404) return undefined;
    throw error;
  }
}

/** Asks until `look` gives something; throws with the last error when `seconds` have passed. */
export async function eventually<T>(what: string, seconds: number, look: () => Promise<T | undefined>): Promise<T> {
  const deadline = Date.now() + seconds * 1000;
  for (;;) {
    let problem: unknown;
    try {
      const found = await look();
      if (found !== undefined) return found;
    } catch (error) {
      problem = error;
    }
    if (Date.now() > deadline) {
      const why = problem instanceof Error ? `: ${problem.message}` : '';
      throw new Error(`${what} did not come within ${seconds} s${why}`, { cause: problem });
    }
    await sleep(200);
  }
}

function readWorkload({ apps }: Access, namespace: string, name: string, kind: WorkloadKind) {
  return kind === 'Deployment'
    ? apps.readNamespacedDeployment({ namespace, name })
    : apps.readNamespacedStatefulSet({ namespace, name });
}

/** Pods of a workload that take traffic. */
export async function readyPods(
  access: Access,
  namespace: string,
  name: string,
  kind: WorkloadKind = 'Deployment',
): Promise<V1Pod[]> {
  const { spec } = await readWorkload(access, namespace, name, kind);
  const labels = Object.entries(spec?.selector.matchLabels ?? {}).map(([key, value]) => `${key}=${value}`);
  const pods = await access.core.listNamespacedPod({ namespace, labelSelector: labels.join(',') });
  return pods.items.filter(
    ({ metadata, status }) =>
      metadata?.deletionTimestamp === undefined &&
      status?.conditions?.some(({ type, status: is }) => type === 'Ready' && is === 'True'),
  );
}

export async function waitForWorkload(
  access: Access,
  namespace: string,
  name: string,
  kind: WorkloadKind = 'Deployment',
): Promise<void> {
  await eventually(`${kind} ${namespace}/${name} with all its replicas ready`, 60, async () => {
    const { spec, status } = await readWorkload(access, namespace, name, kind);
    return (status?.readyReplicas ?? 0) === (spec?.replicas ?? 1) ? true : undefined;
  });
}

/** The one running pod of a workload, for commands in it. */
export async function podOf(
  access: Access,
  namespace: string,
  workload: string,
  kind: WorkloadKind = 'Deployment',
): Promise<PodRef> {
  const pod = await eventually(`a ready pod of ${namespace}/${workload}`, 60, async () => {
    return (await readyPods(access, namespace, workload, kind))[0];
  });
  const { name = '', uid = '' } = pod.metadata ?? {};
  return { namespace, name, uid, container: pod.spec?.containers[0]?.name ?? '' };
}

/** Runs SQL from stdin as `user` over the server's own socket; rows as psql prints them unaligned. */
export async function psql(
  access: Access,
  pod: PodRef,
  user: string,
  database: string,
  sql: string,
  timeoutMs = 120_000,
): Promise<string> {
  const argv = ['psql', '-XqAt', '-v', 'ON_ERROR_STOP=1', '-U', user, '-d', database, '-f', '-'];
  return runInPod(access.kubeConfig, pod, argv, { stdin: Buffer.from(sql), timeoutMs, says: 'psql' });
}
