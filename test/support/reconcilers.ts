/**
 * Argo CD, Flux and KEDA as far as an upgrade meets them: their kinds, and a loop that keeps a Deployment's count unless its
 * object is paused, each as the real one is. Works in any cluster.
 */
import { setTimeout as delay } from 'node:timers/promises';
import {
  ApiException,
  AppsV1Api,
  CustomObjectsApi,
  KubernetesObjectApi,
  PatchStrategy,
  setHeaderOptions,
  type KubeConfig,
} from '@kubernetes/client-node';
import { maybe } from '../../src/sandbox/world/access.ts';

const kinds = {
  Application: { group: 'argoproj.io', version: 'v1alpha1', plural: 'applications' },
  Kustomization: { group: 'kustomize.toolkit.fluxcd.io', version: 'v1', plural: 'kustomizations' },
  HelmRelease: { group: 'helm.toolkit.fluxcd.io', version: 'v2', plural: 'helmreleases' },
  ScaledObject: { group: 'keda.sh', version: 'v1alpha1', plural: 'scaledobjects' },
} as const;

export type ReconcilerKind = keyof typeof kinds;

const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

/** Makes the kinds known, and waits until they are served. */
export async function defineKinds(config: KubeConfig): Promise<void> {
  const objects = KubernetesObjectApi.makeApiClient(config);
  for (const [kind, { group, version, plural }] of Object.entries(kinds)) {
    const schema = {
      openAPIV3Schema: { type: 'object', x_kubernetes_preserve_unknown_fields: true },
    };
    // Argo CD writes status with the object; the others by the subresource.
    const subresources = kind === 'Application' ? {} : { subresources: { status: {} } };
    const spec = {
      group,
      scope: 'Namespaced',
      names: { kind, plural, singular: kind.toLowerCase(), listKind: `${kind}List` },
      versions: [{ name: version, served: true, storage: true, schema, ...subresources }],
    };
    await objects.create({
      apiVersion: 'apiextensions.k8s.io/v1',
      kind: 'CustomResourceDefinition',
      metadata: { name: `${plural}.${group}` },
      spec,
    } as Parameters<typeof objects.create>[0]);
    for (;;) {
      try {
        await config
          .makeApiClient(CustomObjectsApi)
          .listCustomObjectForAllNamespaces({ group, version, resourcePlural: plural });
        break;
      } catch (error) {
        if (!(error instanceof ApiException) || error.code !== 404) throw error;
        await delay(100);
      }
    }
  }
}

/** Takes the kinds, with all their objects, from a cluster that goes on. */
export async function removeKinds(config: KubeConfig): Promise<void> {
  const objects = KubernetesObjectApi.makeApiClient(config);
  for (const { group, plural } of Object.values(kinds)) {
    const metadata = { name: `${plural}.${group}` };
    await maybe(objects.delete({ apiVersion: 'apiextensions.k8s.io/v1', kind: 'CustomResourceDefinition', metadata }));
  }
}

interface Custom {
  apiVersion?: string;
  kind?: string;
  metadata: {
    namespace: string;
    name: string;
    uid?: string;
    labels?: Record<string, string>;
    annotations?: Record<string, string>;
    ownerReferences?: object[];
  };
  spec?: {
    suspend?: boolean;
    syncPolicy?: { automated?: { enabled?: boolean; selfHeal?: boolean } };
    scaleTargetRef?: object;
  };
  operation?: object;
  status?: object;
}

/** Reads and writes objects of these kinds. */
export function customObjects(config: KubeConfig) {
  const api = config.makeApiClient(CustomObjectsApi);
  const at = (kind: ReconcilerKind, namespace: string, name: string) => ({ ...kinds[kind], namespace, name });
  return {
    async create(kind: ReconcilerKind, object: Custom): Promise<Custom> {
      const { group, version } = kinds[kind];
      const { namespace } = object.metadata;
      const body = { apiVersion: `${group}/${version}`, kind, ...object };
      return (await api.createNamespacedCustomObject({ ...kinds[kind], namespace, body })) as Custom;
    },
    async get(kind: ReconcilerKind, namespace: string, name: string): Promise<Custom> {
      return (await api.getNamespacedCustomObject(at(kind, namespace, name))) as Custom;
    },
    async patch(kind: ReconcilerKind, namespace: string, name: string, body: object, fieldManager = 'test') {
      await api.patchNamespacedCustomObject({ ...at(kind, namespace, name), body, fieldManager }, merge);
    },
    async patchStatus(kind: ReconcilerKind, namespace: string, name: string, status: object) {
      await api.patchNamespacedCustomObjectStatus({ ...at(kind, namespace, name), body: { status } }, merge);
    },
  };
}

const managers = {
  Application: 'argocd-controller',
  Kustomization: 'kustomize-controller',
  HelmRelease: 'helm-controller',
  ScaledObject: 'keda',
} as const;

function isActive(kind: ReconcilerKind, { spec, metadata }: Custom): boolean {
  if (kind === 'Application') {
    const automated = spec?.syncPolicy?.automated;
    return automated !== undefined && automated.enabled !== false;
  }
  if (kind === 'ScaledObject') return metadata.annotations?.['autoscaling.keda.sh/paused'] !== 'true';
  return spec?.suspend !== true;
}

/**
 * Keeps each Deployment at its count, several times a second, as long as the object is not paused. `ignorePause` makes it one
 * that acts whatever its object says.
 */
export function startReconciler(
  config: KubeConfig,
  kind: ReconcilerKind,
  at: { namespace: string; name: string },
  keeps: { namespace: string; name: string; replicas: number }[],
  options: { ignorePause?: boolean } = {},
): { actions: string[]; stop: () => Promise<void> } {
  const apps = config.makeApiClient(AppsV1Api);
  const objects = customObjects(config);
  const actions: string[] = [];
  const ended = new AbortController();
  const loop = async () => {
    while (!ended.signal.aborted) {
      const object = await objects.get(kind, at.namespace, at.name);
      const active = isActive(kind, object);
      if (kind === 'ScaledObject') {
        const conditions = [{ type: 'Paused', status: active ? 'False' : 'True' }];
        await objects.patchStatus(kind, at.namespace, at.name, { conditions });
      }
      for (const { namespace, name, replicas } of active || options.ignorePause === true ? keeps : []) {
        const { spec } = await apps.readNamespacedDeployment({ namespace, name });
        if (spec?.replicas === replicas) continue;
        const body = { spec: { replicas } };
        await apps.patchNamespacedDeployment({ namespace, name, body, fieldManager: managers[kind] }, merge);
        actions.push(`${namespace}/${name} to ${replicas}`);
      }
      await delay(100, undefined, { signal: ended.signal }).catch(() => undefined);
    }
  };
  const running = loop();
  return {
    actions,
    async stop() {
      ended.abort();
      await running;
    },
  };
}
