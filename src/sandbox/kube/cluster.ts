import { randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import type { KubernetesObject } from '@kubernetes/client-node';
import { stringify } from 'yaml';
import type { Runtime } from '../runtime/types.ts';
import { createObject, patchObject } from './api.ts';
import { makeCertificate } from './certificates.ts';
import { startAttacher, type AttachContext } from './controllers/attach.ts';
import { startCronJobs } from './controllers/cronjob.ts';
import { startDeployments } from './controllers/deployment.ts';
import { startCollector } from './controllers/gc.ts';
import { startJobs } from './controllers/job.ts';
import { startReplicaSets } from './controllers/replicaset.ts';
import { startScheduler } from './controllers/scheduler.ts';
import { startServices } from './controllers/services.ts';
import { startStatefulSets } from './controllers/statefulset.ts';
import { csiDriver, startVolumes } from './controllers/volumes.ts';
import { createRecorder } from './events.ts';
import { createExecServer } from './exec.ts';
import { notFound } from './failures.ts';
import { createApiServer } from './http.ts';
import { startKubelet } from './kubelet.ts';
import { noLog, sendLog } from './logs.ts';
import { timestamp } from './objects.ts';
import { createUsers } from './rbac.ts';
import { groupVersion, infoOf, resourcesIn } from './resources.ts';
import { createStore, type Store } from './store.ts';
import type { Volumes } from './volumes.ts';

export interface ClusterOptions {
  /** Holds the kubeconfig and what pods leave on the node. */
  stateDir: string;
  runtime: Runtime;
  volumes: Volumes;
  /** Image references shown as present on the node. */
  images?: string[];
  /** The node's id and region at the provider. */
  node?: { linodeId: number; region: string };
  /** Told about failures inside controllers, which are tried again in any case. */
  onError?: (where: string, error: unknown) => void;
}

export interface Cluster {
  /** Readable by its owner only: it holds the token. */
  kubeconfigPath: string;
  /** Makes or changes objects as `kubectl apply` would. Throws what the API would answer. */
  apply(manifests: KubernetesObject[]): void;
  /** Ends server, controllers and pods. The runtime stays the caller's to close. */
  close(): Promise<void>;
}

/** Starts a one-node cluster whose pods run on `runtime` and whose volumes are the provider's. */
export async function startCluster(options: ClusterOptions): Promise<Cluster> {
  const { stateDir, runtime, volumes } = options;
  const { linodeId, region } = options.node ?? { linodeId: 40_217_933, region: 'eu-central' };
  const nodeName = `lke-sandbox-${linodeId}`;
  await mkdir(stateDir, { recursive: true });
  const store = createStore();
  const context: AttachContext = {
    store,
    volumes,
    region,
    nodeName,
    linodeId,
    recorder: createRecorder(store),
    onError: options.onError ?? (() => undefined),
  };
  furnish(store, { nodeName, linodeId, region, images: options.images ?? [] });

  const kubelet = startKubelet({ ...context, runtime, podsDir: join(stateDir, 'pods') });
  const controllers = [
    startScheduler(context),
    startReplicaSets(context),
    startDeployments(context),
    startStatefulSets(context),
    startJobs(context),
    startCronJobs(context),
    startVolumes(context),
    startAttacher(context),
    startServices({ ...context, hostsFile: runtime.hostsFile }),
    startCollector(context),
  ];

  const token = randomBytes(32).toString('hex');
  const users = createUsers(store, token);
  const certificate = makeCertificate();
  const server = createApiServer({
    store,
    certificate,
    users,
    onError: context.onError,
    async logs({ namespace, name }, query, response) {
      const pod = store.get('pods', namespace, name);
      if (pod === undefined) throw notFound(infoOf('pods'), name);
      const previous = query.get('previous') === 'true';
      const log = kubelet.logOf(pod, previous);
      if (log === undefined) throw noLog(name, query.get('container') ?? pod.spec.containers[0]?.name ?? '', previous);
      await sendLog(log, query, response);
    },
  });
  const exec = createExecServer({ store, users, containerOf: (pod) => kubelet.containerOf(pod) });
  server.on('upgrade', (request, socket, head) => exec.upgrade(request, socket, head));
  await new Promise<void>((resolve, reject) => server.once('error', reject).listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as AddressInfo;
  const kubeconfigPath = join(stateDir, 'kubeconfig');
  await writeFile(kubeconfigPath, kubeconfig(`https://127.0.0.1:${port}`, certificate.ca, token), { mode: 0o600 });

  return {
    kubeconfigPath,
    apply: (manifests) => {
      for (const manifest of manifests) applyManifest(store, manifest);
    },
    async close() {
      exec.close();
      server.closeAllConnections();
      await new Promise((resolve) => server.close(resolve));
      await Promise.all(controllers.map((controller) => controller.close()));
      await kubelet.close();
    },
  };
}

function applyManifest(store: Store, manifest: KubernetesObject): void {
  const { apiVersion = '', kind = '', metadata } = manifest;
  const info = resourcesIn(store).find((one) => groupVersion(one) === apiVersion && one.kind === kind);
  if (info === undefined) throw new Error(`no matches for kind "${kind}" in version "${apiVersion}"`);
  const namespace = info.namespaced ? (metadata?.namespace ?? 'default') : '';
  const target = { store, info, namespace, dryRun: false, manager: 'sandbox' };
  const name = metadata?.name;
  if (name === undefined) createObject(target, manifest);
  else patchObject(target, name, 'apply', JSON.stringify(manifest));
}

function kubeconfig(server: string, ca: string, token: string): string {
  const name = 'pgleap-sandbox';
  return stringify({
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': name,
    clusters: [{ name, cluster: { server, 'certificate-authority-data': btoa(ca) } }],
    users: [{ name, user: { token } }],
    contexts: [{ name, context: { cluster: name, user: name, namespace: 'default' } }],
  });
}

/** What a fresh cluster of this kind has before anybody uses it. */
function furnish(store: Store, node: { nodeName: string; linodeId: number; region: string; images: string[] }): void {
  for (const name of ['default', 'kube-system', 'kube-public', 'kube-node-lease']) {
    const metadata = { name, labels: { 'kubernetes.io/metadata.name': name } };
    const finalizers = ['kubernetes'];
    store.insert('namespaces', {
      apiVersion: 'v1',
      kind: 'Namespace',
      metadata,
      spec: { finalizers },
      status: { phase: 'Active' },
    });
  }
  const { nodeName, linodeId, region } = node;
  store.insert('nodes', {
    apiVersion: 'v1',
    kind: 'Node',
    metadata: {
      name: nodeName,
      labels: {
        'kubernetes.io/hostname': nodeName,
        'kubernetes.io/os': 'linux',
        'topology.kubernetes.io/region': region,
        'topology.linode.com/region': region,
      },
    },
    spec: { providerID: `linode://${linodeId}` },
    status: {
      addresses: [
        { type: 'InternalIP', address: '127.0.0.1' },
        { type: 'Hostname', address: nodeName },
      ],
      capacity: { cpu: '4', memory: '8Gi', pods: '110' },
      allocatable: { cpu: '4', memory: '8Gi', pods: '110' },
      conditions: [{ type: 'Ready', status: 'True', reason: 'KubeletReady', lastTransitionTime: timestamp() }],
      images: node.images.map((name) => ({ names: [name] })),
    },
  });
  for (const [name, reclaimPolicy] of [
    ['linode-block-storage', 'Delete'],
    ['linode-block-storage-retain', 'Retain'],
  ] as const) {
    const standard = { 'storageclass.kubernetes.io/is-default-class': 'true' };
    store.insert('storageclasses', {
      apiVersion: 'storage.k8s.io/v1',
      kind: 'StorageClass',
      metadata: reclaimPolicy === 'Retain' ? { name, annotations: standard } : { name },
      provisioner: csiDriver,
      reclaimPolicy,
      allowVolumeExpansion: true,
      volumeBindingMode: 'Immediate',
    });
  }
}
