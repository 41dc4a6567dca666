import { readFile } from 'node:fs/promises';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import type { PodRef, ServerRef, World } from '../../src/domain/facts.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { startCluster } from '../../src/sandbox/kube/cluster.ts';
import { createRuntime } from '../../src/sandbox/runtime/runtime.ts';
import { apply, eventually, maybe, openAccess, podOf, psql, type Access } from '../../src/sandbox/world/access.ts';

export const superuser = 'shop';
export const superuserPassword = 'correct horse "battery" $taple';
const root = join(import.meta.dirname, '..', '..');

export interface Servers {
  kubeConfig: KubeConfig;
  world: World;
  /** The old server of a Deployment, with the example's data and some more. */
  sourcePod: PodRef;
  sourceIp: string;
  deploymentUid: string;
  source: ServerRef;
  /** Two empty, fenced servers of the new version, and a pod that is neither. */
  candidate: ServerRef;
  candidateIp: string;
  target: ServerRef;
  stranger: PodRef;
  strangerIp: string;
  /** SQL as the superuser over a pod's socket. */
  sql(pod: PodRef, database: string, text: string): Promise<string>;
  run(pod: PodRef, script: string, ...argv: string[]): Promise<string>;
  close(): Promise<void>;
}

const env = [
  { name: 'POSTGRES_USER', value: superuser },
  { name: 'POSTGRES_PASSWORD', value: superuserPassword },
];

/** Real servers in the sandbox's pods: the source of major `from`, everything else of 18. */
export async function startServers(from: 15 | 16): Promise<Servers> {
  const directory = await mkdtemp(join(tmpdir(), 'pgleap-postgres-'));
  const runtime = await createRuntime({
    stateDir: join(directory, 'runtime'),
    cacheDir: join(root, '.cache', 'sandbox'),
  });
  const refuse = () => Promise.reject(new Error('these tests have no block volumes'));
  const cluster = await startCluster({
    stateDir: join(directory, 'kube'),
    runtime,
    volumes: {
      create: refuse,
      directory: () => directory,
      attach: refuse,
      detach: refuse,
      resize: refuse,
      delete: refuse,
      get: refuse,
    },
  });
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(cluster.kubeconfigPath);
  return {
    ...(await raiseServers(openAccess(kubeConfig), from, 'databases')),
    async close() {
      await cluster.close();
      await runtime.close();
      await rm(directory, { recursive: true, force: true });
    },
  };
}

/** The same in any cluster, in a namespace that is made for it; whoever wants it removes that. */
export async function raiseServers(access: Access, from: 15 | 16, namespace: string): Promise<Omit<Servers, 'close'>> {
  const { kubeConfig } = access;
  const deployment = {
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: 'postgres', namespace },
    spec: {
      replicas: 1,
      selector: { matchLabels: { app: 'postgres' } },
      template: {
        metadata: { labels: { app: 'postgres' } },
        spec: {
          containers: [
            {
              name: 'postgres',
              image: `postgres:${from}`,
              env,
              args: ['-c', 'shared_preload_libraries=pg_stat_statements', '-c', 'max_prepared_transactions=5'],
            },
          ],
        },
      },
    },
  };
  const pods = ['candidate', 'target', 'stranger'].map((name) => fencedPod(namespace, name));
  await apply(access, [{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: namespace } }, deployment, ...pods]);

  const sourcePod = await podOf(access, namespace, 'postgres');
  await serverUp(access, sourcePod, '*');
  await seed(access, sourcePod);
  const { metadata } = await access.apps.readNamespacedDeployment({ namespace, name: 'postgres' });
  const { metadata: system } = await access.core.readNamespace({ name: 'kube-system' });
  const candidatePod = await singlePod(access, namespace, 'candidate');
  const targetPod = await singlePod(access, namespace, 'target');
  const stranger = await singlePod(access, namespace, 'stranger');
  const ipOf = async (pod: PodRef) =>
    (await access.core.readNamespacedPod({ namespace, name: pod.name })).status?.podIP ?? '';
  const sourceIp = await ipOf(sourcePod);
  const local = (role: ServerRef['role'], pod: PodRef): ServerRef => ({ role, pod, superuser, host: null, port: 5432 });
  return {
    kubeConfig,
    world: {
      clusterUid: system?.uid ?? '',
      upgradeId: 'u0123abcd',
      startedAt: new Date().toISOString(),
      namespace,
    },
    sourcePod,
    sourceIp,
    deploymentUid: metadata?.uid ?? '',
    source: local('source', sourcePod),
    candidate: local('candidate', candidatePod),
    candidateIp: await ipOf(candidatePod),
    target: local('target', targetPod),
    stranger,
    strangerIp: await ipOf(stranger),
    sql: (pod, database, text) => psql(access, pod, superuser, database, text),
    run: (pod, script, ...argv) =>
      runInPod(kubeConfig, pod, ['bash', '-c', script, 'bash', ...argv], { timeoutMs: 60_000, says: script }),
  };
}

function fencedPod(namespace: string, name: string) {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace },
    spec: {
      volumes: [{ name: 'scratch', emptyDir: {} }],
      containers: [
        {
          name: 'postgres',
          image: 'postgres:18',
          env: [...env, { name: 'PGDATA', value: '/pgleap/pgdata' }],
          args: ['-c', 'listen_addresses=', '-c', 'fsync=off', '-c', 'max_wal_size=4GB'],
          volumeMounts: [{ name: 'scratch', mountPath: '/pgleap' }],
        },
      ],
    },
  };
}

async function singlePod(access: Access, namespace: string, name: string): Promise<PodRef> {
  const pod = await eventually(`pod ${name}`, 60, async () => {
    const found = await maybe(access.core.readNamespacedPod({ namespace, name }));
    return found?.status?.containerStatuses?.[0]?.ready === true ? found : undefined;
  });
  const ref = { namespace, name, uid: pod.metadata?.uid ?? '', container: 'postgres' };
  await serverUp(access, ref, '');
  return ref;
}

/** While the image initialises, a server of its own answers on the socket. */
async function serverUp(access: Access, pod: PodRef, listens: string): Promise<void> {
  await eventually(`PostgreSQL in ${pod.name}`, 60, async () => {
    const script = 'read -r pid < "$PGDATA/postmaster.pid" && [ "$pid" = 1 ] && echo first';
    const first = await runInPod(access.kubeConfig, pod, ['bash', '-c', script]);
    const answer = await psql(access, pod, superuser, 'postgres', 'SHOW listen_addresses;\n');
    return first.trim() === 'first' && answer.trim() === listens ? true : undefined;
  });
}

async function seed(access: Access, pod: PodRef): Promise<void> {
  const names = ['site', 'metricity', 'pinnwand', 'grafana', 'blackbox', 'admin', 'legacy'];
  const variables = [
    ...names.map((name) => `\\set ${name}_password ${name}-password\n`),
    '\\set message_rows 2000\n\\set paste_rows 20\n',
  ];
  const example = await readFile(join(root, 'src/sandbox/world/seed.sql'), 'utf8');
  await psql(access, pod, superuser, 'postgres', variables.join('') + example);
  const more = await readFile(join(import.meta.dirname, 'postgres-oddities.sql'), 'utf8');
  await psql(access, pod, superuser, 'postgres', more);
}
