import type {
  KubeConfig,
  V1ConfigMap,
  V1CronJob,
  V1Deployment,
  V1Job,
  V1Lease,
  V1Namespace,
  V1PersistentVolume,
  V1PersistentVolumeClaim,
  V1Pod,
  V1ReplicaSet,
  V1Secret,
  V1Service,
  V1LimitRange,
  V1ResourceQuota,
  V1StatefulSet,
  V1StorageClass,
  V1VolumeAttachment,
  V2HorizontalPodAutoscaler,
} from '@kubernetes/client-node';
import type { Right } from '../../domain/rights.ts';
import { abortSignal, mayWait, pause, requireLeave } from '../context.ts';
import { isFailure } from '../errors.ts';
import { fromResponse, notTheApi, reasonOf, unreachable } from './failures.ts';
import { hasShape } from './shapes.ts';
import {
  createConfiguration,
  HttpMethod,
  ServerConfiguration,
  wrapHttpLibrary,
  type RequestContext,
  type ResponseContext,
} from './sdk-parts.ts';

/*
 * One client for the API server: the SDK's kubeconfig, authentication and transport, and its types, but plain JSON instead
 * of its generated calls. Those drop fields that they do not know (a template is put back as it was, whole), send JSON
 * patches unless told otherwise, and have no time limit.
 */

/** An SDK type as it comes over the wire: times are strings. */
export type Json<T> = T extends Date
  ? string
  : T extends readonly (infer Item)[]
    ? Json<Item>[]
    : T extends object
      ? { [Key in keyof T]: Json<T[Key]> }
      : T;

interface Types {
  Namespace: V1Namespace;
  Pod: V1Pod;
  Service: V1Service;
  Secret: V1Secret;
  ConfigMap: V1ConfigMap;
  PersistentVolumeClaim: V1PersistentVolumeClaim;
  PersistentVolume: V1PersistentVolume;
  Deployment: V1Deployment;
  StatefulSet: V1StatefulSet;
  ReplicaSet: V1ReplicaSet;
  Job: V1Job;
  CronJob: V1CronJob;
  StorageClass: V1StorageClass;
  VolumeAttachment: V1VolumeAttachment;
  Lease: V1Lease;
  HorizontalPodAutoscaler: V2HorizontalPodAutoscaler;
  ResourceQuota: V1ResourceQuota;
  LimitRange: V1LimitRange;
}

export type Kind = keyof Types;
export type Resource<K extends Kind> = Json<Types[K]>;

const paths: Record<Kind, readonly [group: string, resource: string, namespaced: boolean]> = {
  Namespace: ['/api/v1', 'namespaces', false],
  Pod: ['/api/v1', 'pods', true],
  Service: ['/api/v1', 'services', true],
  Secret: ['/api/v1', 'secrets', true],
  ConfigMap: ['/api/v1', 'configmaps', true],
  PersistentVolumeClaim: ['/api/v1', 'persistentvolumeclaims', true],
  PersistentVolume: ['/api/v1', 'persistentvolumes', false],
  ResourceQuota: ['/api/v1', 'resourcequotas', true],
  LimitRange: ['/api/v1', 'limitranges', true],
  Deployment: ['/apis/apps/v1', 'deployments', true],
  StatefulSet: ['/apis/apps/v1', 'statefulsets', true],
  ReplicaSet: ['/apis/apps/v1', 'replicasets', true],
  Job: ['/apis/batch/v1', 'jobs', true],
  CronJob: ['/apis/batch/v1', 'cronjobs', true],
  StorageClass: ['/apis/storage.k8s.io/v1', 'storageclasses', false],
  VolumeAttachment: ['/apis/storage.k8s.io/v1', 'volumeattachments', false],
  Lease: ['/apis/coordination.k8s.io/v1', 'leases', true],
  HorizontalPodAutoscaler: ['/apis/autoscaling/v2', 'horizontalpodautoscalers', true],
};

/** Which object: without a namespace for those that have none. */
export interface ObjectName {
  namespace?: string | undefined;
  name: string;
}

export interface Kube {
  kc: KubeConfig;
  /** Throws NotFound. */
  get<K extends Kind>(kind: K, at: ObjectName): Promise<Resource<K>>;
  /** undefined when there is none of that name. */
  find<K extends Kind>(kind: K, at: ObjectName): Promise<Resource<K> | undefined>;
  /** All of them, page by page; of all namespaces when none is given. */
  list<K extends Kind>(kind: K, where?: { namespace?: string; labels?: string }): Promise<Resource<K>[]>;
  /** Conflict when the name is taken. */
  create<K extends Kind>(kind: K, object: Partial<Resource<K>>): Promise<Resource<K>>;
  /** Replaces the object; Conflict when its resourceVersion is no longer current. */
  replace<K extends Kind>(kind: K, object: Resource<K>): Promise<Resource<K>>;
  /** A JSON merge patch unless `strategic`. A `metadata.resourceVersion` in it makes it conditional. */
  patch<K extends Kind>(
    kind: K,
    at: ObjectName,
    body: object,
    options?: { strategic?: boolean; dryRun?: boolean },
  ): Promise<Resource<K>>;
  /**
   * Deletes only the object of that uid; with a `resourceVersion` only if nobody changed it since: else Conflict. One that is gone
   * already is no error. Does not wait.
   */
  remove(
    kind: Kind,
    at: ObjectName,
    uid: string,
    options?: { graceSeconds?: number; resourceVersion?: string | undefined },
  ): Promise<void>;
  /** Any other path of the API, as JSON: versions, custom resources. undefined when it is not found. */
  read(path: string): Promise<unknown>;
  /** A JSON merge patch of the object at any other path: custom resources. Throws NotFound. */
  change(path: string, body: object): Promise<unknown>;
  /** Whether these credentials may do that; undefined when the server does not review access. */
  allowed(right: Right): Promise<boolean | undefined>;
  /** As whom the API server knows these credentials; undefined when it does not say (before Kubernetes 1.28). */
  userName(): Promise<string | undefined>;
  /** A container's log; undefined when there is none (yet). */
  log(
    at: ObjectName,
    options: { container: string; tailLines?: number; sinceTime?: string; previous?: boolean },
  ): Promise<string | undefined>;
}

const requestMs = 20_000;
const outageMs = 3 * 60_000;
/** How long connections and credentials are used before the kubeconfig is asked for them again. */
const credentialsMs = 5 * 60_000;

/** Makes the client of the kubeconfig's current cluster. Nothing is sent yet. */
export function createKube(kc: KubeConfig): Kube {
  const server = kc.getCurrentCluster()?.server ?? '';
  const transport = createConfiguration().httpApi;
  const configuration = createConfiguration({
    baseServer: new ServerConfiguration(server, {}),
    authMethods: { default: kc },
    httpApi: wrapHttpLibrary({ send: (request) => transport.send(request).toPromise() }),
  });
  let pool: { dispatcher: ReturnType<RequestContext['getDispatcher']>; until: number } | undefined;

  async function send(
    request: RequestContext,
  ): Promise<{ code: number; body: string; headers: Record<string, string> }> {
    await configuration.authMethods.default?.applySecurityAuthentication(request);
    // The SDK opens a new connection pool for every request, and a TLS handshake with it.
    if (pool === undefined || pool.until < Date.now()) {
      pool = { dispatcher: request.getDispatcher(), until: Date.now() + credentialsMs };
    }
    if (pool.dispatcher !== undefined) request.setDispatcher(pool.dispatcher);
    const cancelled = abortSignal();
    const limit = AbortSignal.timeout(requestMs);
    request.setSignal(cancelled === undefined ? limit : AbortSignal.any([limit, cancelled]));
    try {
      const response: ResponseContext = await configuration.httpApi.send(request).toPromise();
      return { code: response.httpStatusCode, body: await response.body.text(), headers: response.headers };
    } catch (error) {
      cancelled?.throwIfAborted();
      throw unreachable(kc, error);
    }
  }

  /** `read` gives undefined for a body that cannot be the API server's. */
  async function call<T>(
    method: HttpMethod,
    path: string,
    read: (body: string) => T | undefined,
    options: { query?: Record<string, string | undefined>; body?: object; type?: string; accept?: string } = {},
  ): Promise<T> {
    const build = () => {
      const request = configuration.baseServer.makeRequestContext(path, method);
      request.setHeaderParam('Accept', options.accept ?? 'application/json');
      request.setHeaderParam('User-Agent', 'pgleap');
      for (const [name, value] of Object.entries(options.query ?? {})) {
        if (value !== undefined) request.setQueryParam(name, value);
      }
      if (options.body !== undefined) {
        request.setHeaderParam('Content-Type', options.type ?? 'application/json');
        request.setBody(JSON.stringify(options.body));
      }
      return request;
    };
    const once = async () => {
      const answer = await send(build());
      if (answer.code >= 200 && answer.code < 300) {
        const value = read(answer.body);
        if (value === undefined) throw notTheApi(kc, `${method} ${path}`);
        return value;
      }
      throw fromResponse(answer.code, answer.body, answer.headers, `${method} ${path}`);
    };
    if (method === HttpMethod.GET) return await patiently(once);
    await requireLeave();
    return await once();
  }

  async function get<K extends Kind>(kind: K, at: ObjectName): Promise<Resource<K>> {
    const [, , namespaced] = paths[kind];
    return await call(HttpMethod.GET, pathOf(kind, at), (body) => {
      const object = asObject(kind)(body);
      const { name, namespace } = object?.metadata ?? {};
      // Of another one nothing is believed: whose pods are looked for, say, is read from it.
      return name === at.name && (!namespaced || namespace === at.namespace) ? object : undefined;
    });
  }

  return {
    kc,
    get,
    find: (kind, at) => orGone(kc, get(kind, at)),
    async list<K extends Kind>(kind: K, where: { namespace?: string; labels?: string } = {}) {
      const items: Resource<K>[] = [];
      let next: string | undefined;
      do {
        const page = await call(HttpMethod.GET, pathOf(kind, { namespace: where.namespace }), asList<K>(kind), {
          query: { limit: '500', labelSelector: where.labels, continue: next },
        });
        items.push(...page.items);
        next = page.metadata?.continue === '' ? undefined : page.metadata?.continue;
      } while (next !== undefined);
      return items;
    },
    async create<K extends Kind>(kind: K, object: Partial<Resource<K>>) {
      const [group] = paths[kind];
      const body = { apiVersion: group.replace(/^\/apis?\//, ''), kind, ...object };
      const path = pathOf(kind, { namespace: object.metadata?.namespace });
      return await call(HttpMethod.POST, path, asObject(kind), { body, query: { fieldManager: 'pgleap' } });
    },
    async replace<K extends Kind>(kind: K, object: Resource<K>) {
      const path = pathOf(kind, { namespace: object.metadata?.namespace, name: object.metadata?.name ?? '' });
      const query = { fieldManager: 'pgleap' };
      return await call(HttpMethod.PUT, path, asObject(kind), { body: object, query });
    },
    async patch<K extends Kind>(
      kind: K,
      at: ObjectName,
      body: object,
      options: { strategic?: boolean; dryRun?: boolean } = {},
    ) {
      const type =
        options.strategic === true ? 'application/strategic-merge-patch+json' : 'application/merge-patch+json';
      const query = { fieldManager: 'pgleap', dryRun: options.dryRun === true ? 'All' : undefined };
      return await call(HttpMethod.PATCH, pathOf(kind, at), asObject(kind), { body, type, query });
    },
    async remove(kind, at, uid, options = {}) {
      const body = {
        apiVersion: 'v1',
        kind: 'DeleteOptions',
        preconditions: { uid, resourceVersion: options.resourceVersion },
        propagationPolicy: 'Background',
        ...(options.graceSeconds === undefined ? {} : { gracePeriodSeconds: options.graceSeconds }),
      };
      await orGone(kc, call(HttpMethod.DELETE, pathOf(kind, at), asJson, { body }));
    },
    read: (path) => orUndefined(call(HttpMethod.GET, path, asJson)),
    async change(path, body) {
      const type = 'application/merge-patch+json';
      return await call(HttpMethod.PATCH, path, asJson, { body, type, query: { fieldManager: 'pgleap' } });
    },
    async allowed({ resource: whole, role: _role, ...attributes }) {
      const [resource, subresource] = whole.split('/');
      const body = {
        apiVersion: 'authorization.k8s.io/v1',
        kind: 'SelfSubjectAccessReview',
        spec: {
          resourceAttributes: { ...attributes, resource, ...(subresource === undefined ? {} : { subresource }) },
        },
      };
      const path = '/apis/authorization.k8s.io/v1/selfsubjectaccessreviews';
      const review = await orUndefined(call(HttpMethod.POST, path, asJson, { body }));
      if (review === undefined) return undefined;
      return isRecord(review['status']) && review['status']['allowed'] === true;
    },
    async userName() {
      const body = { apiVersion: 'authentication.k8s.io/v1', kind: 'SelfSubjectReview' };
      const path = '/apis/authentication.k8s.io/v1/selfsubjectreviews';
      const review = await orUndefined(call(HttpMethod.POST, path, asJson, { body }));
      const { userInfo } = isRecord(review?.['status']) ? review['status'] : {};
      return isRecord(userInfo) && typeof userInfo['username'] === 'string' ? userInfo['username'] : undefined;
    },
    async log(at, { container, tailLines, sinceTime, previous }) {
      const query = {
        container,
        tailLines: tailLines === undefined ? undefined : String(tailLines),
        sinceTime,
        previous: previous === true ? 'true' : undefined,
        limitBytes: '400000',
      };
      try {
        return await call(HttpMethod.GET, `${pathOf('Pod', at)}/log`, String, { query, accept: '*/*' });
      } catch (error) {
        // 400: the container waits to start, or has no previous run.
        if (isFailure(error, 'NotFound', 'Refused')) return undefined;
        throw error;
      }
    },
  };
}

function asJson(body: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(body);
    return isRecord(value) ? value : undefined;
  } catch {
    return undefined;
  }
}

function asObject<K extends Kind>(kind: K): (body: string) => Resource<K> | undefined {
  return (body) => {
    const value = asJson(body);
    return hasShape(kind, value) ? (value as unknown as Resource<K>) : undefined;
  };
}

interface Page<K extends Kind> {
  items: Resource<K>[];
  metadata?: { continue?: string };
}

function asList<K extends Kind>(kind: K): (body: string) => Page<K> | undefined {
  return (body) => {
    const value = asJson(body);
    if (!isRecord(value) || !Array.isArray(value['items'])) return undefined;
    return value['items'].every((item) => hasShape(kind, item)) ? (value as unknown as Page<K>) : undefined;
  };
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function pathOf(kind: Kind, at: { namespace?: string | undefined; name?: string }): string {
  const [group, resource, namespaced] = paths[kind];
  const scope = namespaced && at.namespace !== undefined ? `/namespaces/${at.namespace}` : '';
  return `${group}${scope}/${resource}${at.name === undefined ? '' : `/${at.name}`}`;
}

/**
 * Reads again when nobody answered: once for a kept connection that the server has just closed, and for some minutes in
 * activities that wait anyway, because control planes restart.
 */
async function patiently<T>(read: () => Promise<T>): Promise<T> {
  const began = performance.now();
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await read();
    } catch (error) {
      const waited = performance.now() - began;
      const patience = mayWait() ? outageMs : attempt === 1 ? 1000 : 0;
      if (!isFailure(error, 'Unreachable') || waited > patience) throw error;
      await pause(Math.min(50 * 2 ** attempt, 2000));
    }
  }
}

/** Only the API server itself says that an object is gone, with its reason: the 404 of a gateway says nothing of objects. */
async function orGone<T>(kc: KubeConfig, answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (!isFailure(error, 'NotFound')) throw error;
    if (reasonOf(error) !== 'NotFound') throw notTheApi(kc, error.message);
    return undefined;
  }
}

async function orUndefined<T>(answer: Promise<T>): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (isFailure(error, 'NotFound')) return undefined;
    throw error;
  }
}
