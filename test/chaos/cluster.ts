/** A sandbox's cluster behind a proxy, for the scenes of the fault matrix. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll } from 'vitest';
import { createArtifactActivities } from '../../src/activities/artifacts.ts';
import { openStore } from '../../src/activities/artifacts/store.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { createPostgresActivities } from '../../src/activities/postgres/index.ts';
import type { BlockVolumeFact, ClusterFacts, ServerRef, ServiceFact, World } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { startSandbox } from '../../src/sandbox/sandbox.ts';
import { cleaner, kubeSecrets } from '../../src/worker/secrets.ts';
import { run } from '../activities/environment.ts';
import type { Stage } from './cells.ts';
import { closeBelow, pass, startProxy, type Proxy } from './faults.ts';

export const namespace = 'databases';
/** Of a request, and of the handshake of a command. */
const requestMs = 20_000;
export const workflowId = 'pgleap/databases/postgres';

export let folder: string;
let sandbox: Awaited<ReturnType<typeof startSandbox>>;
export let direct: Kube;
let proxied: KubeConfig;
let proxy: Proxy;
export let kube: KubernetesActivities;
export let plain: KubernetesActivities;
export let postgres: ReturnType<typeof createPostgresActivities>;
/** Past the proxy. */
export let plainPostgres: ReturnType<typeof createPostgresActivities>;
export let artifacts: ReturnType<typeof createArtifactActivities>;
export let facts: ClusterFacts;
export let world: World;
export let source: ServerRef;
/** Labels of volumes that were removed at the provider. */
export const removed: string[] = [];
export const spec = specSchema.parse({
  database: { namespace },
  target: { image: 'postgres:18' },
  services: [
    { namespace: 'bots', name: 'metricity' },
    { kind: 'CronJob', namespace, name: 'blackbox' },
  ],
});

/** Has it there for all tests of a file. `prepare` is done to it once. */
export function onCluster(prepare?: () => Promise<void>): void {
  beforeAll(async () => {
    await raise();
    await prepare?.();
  }, 180_000);
  afterAll(async () => {
    await proxy?.close();
    await sandbox?.close();
    await rm(folder, { recursive: true, force: true, maxRetries: 5 });
  }, 60_000);
}

async function raise(): Promise<void> {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-faults-'));
  sandbox = await startSandbox({ stateDir: join(folder, 'sandbox'), from: 16, sizeMb: 1, topology: 'sandbox' });
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.address.kubeconfig);
  direct = createKube(kubeConfig);
  proxy = await startProxy(
    kubeConfig.getCurrentCluster()?.server ?? '',
    (path, query) =>
      path.replace(/\/(pods|persistentvolumes|configmaps|replicasets)\/[^/]+/, '/$1/:name') +
      stepOf(query.getAll('command')),
    (code, echo) => {
      // Only by this word an object counts as gone.
      const reason = code === 404 ? 'NotFound' : 'Made';
      return { kind: 'Status', status: 'Failure', code, reason, message: `no. You sent ${echo}` };
    },
    () => pass(closeBelow(requestMs)),
  );
  proxied = new KubeConfig();
  proxied.loadFromString(kubeConfig.exportConfig());
  proxied.clusters = proxied.clusters.map((one) => ({ ...one, server: proxy.url, skipTLSVerify: true }));
  const rest = {
    removeVolume: async ({ volume }: { volume: BlockVolumeFact }) => void removed.push(volume.label),
    provider: { hasVolume: async () => true, findClone: async () => null },
  };
  kube = createKubernetesActivities({ kubeConfig: proxied, ...rest });
  plain = createKubernetesActivities({ kubeConfig, ...rest });
  postgres = createPostgresActivities({ kubeConfig: proxied });
  plainPostgres = createPostgresActivities({ kubeConfig });
  artifacts = createArtifactActivities({ store: await openStore(join(folder, 'artifacts')), kubeConfig: proxied });
  const startedAt = new Date().toISOString();
  const found = (await run(() => plain.inspectCluster({ spec }))).facts;
  if (found === null) throw new Error('no facts');
  facts = found;
  world = { clusterUid: facts.clusterUid, upgradeId: 'u0badcafe', startedAt, namespace };
  source = { role: 'source', pod: facts.database.pod, superuser: facts.database.superuser, host: null, port: 5432 };
}

/** How often a job is polled, or a server that starts is looked at, is a matter of time, so that these commands are not counted. */
function stepOf(argv: string[]): string {
  const text = argv.join('\n');
  if (text.includes('statement_timeout=10000')) return ', look at a server';
  if (text.includes('/proc/1/comm')) return ', look at its data';
  if (text.includes('setsid sh -c')) return ', start of a job';
  if (text.includes('echo absent')) return ', poll of a job';
  return /\ncat\n\/pgleap\/jobs\//.test(text) ? ', result of a job' : '';
}

export function service(name: string): ServiceFact {
  const found = facts.services.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no service ${name}`);
  return found;
}

export const isTime = (text: string) => /^\d{4}-\d\d-\d\dT[\d:.]+Z$/.test(text);

/** Objects that activities may change, without what is new each time. */
export async function objects(): Promise<unknown> {
  const timeless = (text: string) =>
    text.replaceAll(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, '(time)').replaceAll(/"uid":"[^"]*"/g, '"uid":"(uid)"');
  const [leases, maps, claims, volumes, deployments, crons, pods, ofService] = await Promise.all([
    direct.list('Lease', { namespace }),
    direct.list('ConfigMap', { namespace }),
    direct.list('PersistentVolumeClaim', { namespace }),
    direct.list('PersistentVolume'),
    direct.list('Deployment'),
    direct.list('CronJob'),
    direct.list('Pod', { namespace, labels: 'pgleap.dev/upgrade' }),
    direct.list('Pod', { namespace: 'bots', labels: 'app=metricity' }),
  ]);
  const scratchName = `pgleap-${world.upgradeId}-scratch`;
  const claimed = claims.some(({ metadata }) => metadata?.name === scratchName);
  return {
    leases: leases.map(({ metadata, spec: has }) => [metadata?.name, metadata?.labels, has?.holderIdentity]),
    maps: maps.map(({ metadata, data }) => [metadata?.name, metadata?.labels, timeless(JSON.stringify(data))]),
    claims: claims.map(({ metadata, spec: has }) => [metadata?.name, has?.resources]),
    // When the scratch claim gets its volume is the cluster's affair; that none stays behind is not.
    left: volumes.filter(({ spec: has }) => has?.claimRef?.name === scratchName && !claimed).length,
    volumes: volumes
      .filter(({ status, spec: has }) => status?.phase === 'Bound' && has?.claimRef?.name !== scratchName)
      .map(({ spec: has }) => [has?.claimRef?.name, has?.persistentVolumeReclaimPolicy]),
    deployments: deployments.map(({ metadata, spec: has }) => [
      metadata?.name,
      has?.replicas,
      Object.keys(metadata?.annotations ?? {}).filter((key) => key.startsWith('pgleap')),
    ]),
    crons: crons.map(({ metadata, spec: has }) => [
      metadata?.name,
      has?.suspend,
      Object.keys(metadata?.annotations ?? {}),
    ]),
    pods: pods.map(({ metadata }) => metadata?.name),
    ofService: ofService.length,
  };
}

/** `world`: all that the activities of a file may change. */
export const stageOf = (state: () => Promise<unknown>) => (): Stage => {
  const secrets = kubeSecrets(proxied);
  return { proxy, world: state, secrets: () => secrets, clean: cleaner(secrets) };
};
