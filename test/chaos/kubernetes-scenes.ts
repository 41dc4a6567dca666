/** Activities in a sandbox's cluster, behind a proxy: the scenes of the fault matrix at the Kubernetes API and in pods. */
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll } from 'vitest';
import { createArtifactActivities } from '../../src/activities/artifacts.ts';
import { openStore, sha512OfFile } from '../../src/activities/artifacts/store.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { clearJob } from '../../src/activities/kubernetes/jobs.ts';
import { awaitServer } from '../../src/activities/kubernetes/server.ts';
import { createPostgresActivities } from '../../src/activities/postgres/index.ts';
import { sqlText } from '../../src/activities/postgres/psql.ts';
import type { Artifact, ClusterFacts, ServerRef, ServiceFact, World } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';
import type { Undo } from '../../src/domain/undo.ts';
import { startSandbox } from '../../src/sandbox/sandbox.ts';
import { cleaner, kubeSecrets } from '../../src/worker/secrets.ts';
import { run } from '../activities/environment.ts';
import type { Scene, Stage } from './cells.ts';
import { faults, startProxy, type Fault, type Proxy } from './faults.ts';

const namespace = 'databases';
const workflowId = 'pgleap/databases/postgres';
const hbaFile = '/var/lib/postgresql/data/pg_hba.conf';

let folder: string;
let sandbox: Awaited<ReturnType<typeof startSandbox>>;
let direct: Kube;
let proxied: KubeConfig;
let proxy: Proxy;
let kube: KubernetesActivities;
let plain: KubernetesActivities;
let postgres: ReturnType<typeof createPostgresActivities>;
let artifacts: ReturnType<typeof createArtifactActivities>;
let facts: ClusterFacts;
let world: World;
let source: ServerRef;
/** A fenced server that is empty but for what the scenes of jobs put there. */
let fenced: ServerRef | undefined;
/** A file in the source's pod, to be copied. */
let copied: Artifact;

const spec = specSchema.parse({
  database: { namespace },
  target: { image: 'postgres:18' },
  services: [
    { namespace: 'bots', name: 'metricity' },
    { kind: 'CronJob', namespace, name: 'blackbox' },
  ],
});

beforeAll(async () => {
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
    (code, echo) => ({ kind: 'Status', status: 'Failure', code, reason: 'Made', message: `no. You sent ${echo}` }),
  );
  proxied = new KubeConfig();
  proxied.loadFromString(kubeConfig.exportConfig());
  proxied.clusters = proxied.clusters.map((one) => ({ ...one, server: proxy.url, skipTLSVerify: true }));
  const rest = {
    removeVolume: async () => undefined,
    provider: { hasVolume: async () => true, findClone: async () => null },
  };
  kube = createKubernetesActivities({ kubeConfig: proxied, ...rest });
  plain = createKubernetesActivities({ kubeConfig, ...rest });
  postgres = createPostgresActivities({ kubeConfig: proxied });
  artifacts = createArtifactActivities({ store: await openStore(join(folder, 'artifacts')), kubeConfig: proxied });
  const startedAt = new Date().toISOString();
  const found = (await run(() => plain.inspectCluster({ spec }))).facts;
  if (found === null) throw new Error('no facts');
  facts = found;
  world = { clusterUid: facts.clusterUid, upgradeId: 'u0badcafe', startedAt, namespace };
  source = { role: 'source', pod: facts.database.pod, superuser: facts.database.superuser, host: null, port: 5432 };
  const make = 'seq 200000 >/tmp/original && stat -c %s /tmp/original && sha512sum /tmp/original';
  const [bytes = '', sum = ''] = (await runInPod(kubeConfig, source.pod, ['sh', '-c', make])).split('\n');
  copied = { name: 'file', bytes: Number(bytes), sha512: sum.slice(0, 128) };
}, 180_000);

/** Of a detached job. How often it is polled is a matter of time, so that its commands are not counted. */
function stepOf(argv: string[]): string {
  const text = argv.join('\n');
  if (text.includes('setsid sh -c')) return ', start of a job';
  if (text.includes('echo absent')) return ', poll of a job';
  return /\ncat\n\/pgleap\/jobs\//.test(text) ? ', result of a job' : '';
}

afterAll(async () => {
  await proxy?.close();
  await sandbox?.close();
  await rm(folder, { recursive: true, force: true, maxRetries: 5 });
}, 60_000);

function service(name: string): ServiceFact {
  const found = facts.services.find((one) => one.name === name);
  if (found === undefined) throw new Error(`no service ${name}`);
  return found;
}

/** Everything in the cluster that these activities may change, without what is new each time. */
async function state(): Promise<unknown> {
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
  const look = `cat ${hbaFile}; ls ${hbaFile}*; cd /tmp; sha512sum original; sha512sum copy* 2>/dev/null || :`;
  const inPod = await runInPod(direct.kc, source.pod, ['sh', '-c', look]);
  const kept = await readdir(join(folder, 'artifacts'), { recursive: true, withFileTypes: true });
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
    inPod,
    jobs: fenced && (await ofJobs(fenced)),
    kept: await Promise.all(
      kept
        .filter((entry) => entry.isFile())
        .map(async ({ name, parentPath }) => [name, await sha512OfFile(join(parentPath, name))]),
    ),
  };
}

const undo = (id: string): Undo => ({
  id,
  phase: 'prepare',
  says: id,
  activity: 'removeScratch',
  args: { world },
  last: true,
});
const workload = () => facts.database.workload;
const takeLease = (on: KubernetesActivities) => on.takeLease({ world, workload: workload(), workflowId });
const releaseLease = (on: KubernetesActivities) => on.releaseLease({ world, workload: workload() });
const beginJournal = (on: KubernetesActivities) => on.beginJournal({ world, workflowId, planHash: 'p', summary: 's' });
const journalUndo = (on: KubernetesActivities) => on.journalUndo({ world, undos: [undo('a'), undo('b')] });
const forgetJournal = async () => {
  const at = { namespace, name: `pgleap-${world.upgradeId}-journal` };
  const map = await direct.find('ConfigMap', at);
  if (map !== undefined) await direct.remove('ConfigMap', at, map.metadata?.uid ?? '');
};
const withJournal = { before: () => run(() => beginJournal(plain)), after: forgetJournal };
const retain = (on: KubernetesActivities) =>
  on.setReclaimPolicy({ world, volume: facts.database.volume, policy: 'Retain' });
const unretain = (on: KubernetesActivities) => on.restoreReclaimPolicy({ world, volume: facts.database.volume });
const scratch = (on: KubernetesActivities) => on.createScratch({ world, claim: facts.database.claim, bytes: 1 });
const noScratch = (on: KubernetesActivities) => on.removeScratch({ world });
const suspend = (on: KubernetesActivities) => on.suspendCronJob({ world, service: service('blackbox') });
const unsuspend = (on: KubernetesActivities) => on.restoreCronJob({ world, service: service('blackbox') });
const stop = (on: KubernetesActivities) => on.stopService({ world, service: service('metricity') });
const restore = (on: KubernetesActivities) => on.restoreService({ world, service: service('metricity') });
// Through the proxy, also before and after: nothing is ordered from it then.
const fence = () => postgres.fenceSource({ world, source, hbaFile, candidateIp: '10.9.9.9', readOnlyLogins: [] });
const lift = () => postgres.liftSourceFence({ world, database: facts.database, hbaFile });
const copyOut = () => artifacts.copyOut({ world, pod: source.pod, path: '/tmp/original', ...copied });
const forgetCopies = async () => {
  await rm(join(folder, 'artifacts', world.upgradeId), { recursive: true, force: true });
  await runInPod(direct.kc, source.pod, ['sh', '-c', 'rm -f /tmp/copy*']);
};

/** Each start of a job is written down by what stands in the place of setsid. */
const setsid = `#!/bin/sh
echo "$PGLEAP_JOB" >>/pgleap/begun
PATH=\${PATH#*:} exec setsid "$@"
`;

async function fencedServer(): Promise<ServerRef> {
  if (fenced !== undefined) return fenced;
  const at = { namespace, name: 'fenced' };
  const path = (await runInPod(direct.kc, source.pod, ['printenv', 'PATH'])).trim();
  await direct.create('Pod', {
    metadata: at,
    spec: {
      volumes: [{ name: 'scratch', emptyDir: {} }],
      containers: [
        {
          name: 'postgres',
          image: 'postgres:16',
          env: [
            { name: 'POSTGRES_USER', value: source.superuser },
            { name: 'POSTGRES_PASSWORD', value: 'nobody asks for it' },
            { name: 'PATH', value: `/pgleap/bin:${path}` },
          ],
          args: ['-c', 'listen_addresses='],
          volumeMounts: [{ name: 'scratch', mountPath: '/pgleap' }],
        },
      ],
    },
  });
  const { server } = await run(() =>
    awaitServer(
      direct,
      'candidate',
      { container: 'postgres', superuser: source.superuser, port: 5432 },
      { find: () => direct.find('Pod', at), timeoutMs: 60_000 },
    ),
  );
  const script = 'mkdir /pgleap/bin && printf %s "$1" >/pgleap/bin/setsid && chmod 755 /pgleap/bin/setsid';
  await runInPod(direct.kc, server.pod, ['sh', '-c', script, 'sh', setsid]);
  fenced = server;
  return server;
}

/** What jobs were begun, what they left, and how often the dump was imported. */
async function ofJobs(server: ServerRef): Promise<unknown> {
  // Neither is there before the first job.
  const look = 'cd /pgleap && { cat begun; ls -d * jobs/*; } 2>/dev/null; true';
  return {
    files: await runInPod(direct.kc, server.pod, ['sh', '-c', look]),
    imports: await sqlText(direct.kc, server, imports),
  };
}

const imports = `SELECT count(*) FROM pg_class WHERE relname ~ '^imported'`;
const forgetJobs = async () => {
  const server = await fencedServer();
  await run(() =>
    Promise.all(['import-a', 'dump-a', 'fingerprint-a'].map((name) => clearJob(direct.kc, server.pod, name))),
  );
  await runInPod(direct.kc, server.pod, ['sh', '-c', 'cd /pgleap && rm -rf a.* fingerprint-* begun']);
  const drop = `SELECT format('DROP TABLE %I', relname) FROM pg_class WHERE relname ~ '^imported' \\gexec`;
  await sqlText(direct.kc, server, drop, { write: true, ownSearchPath: true });
};
/** A name of its own for each import: a second one adds to the first. */
const dumpText = `SELECT format('CREATE TABLE imported_%s ()', count(*)) FROM pg_class WHERE relname ~ '^imported' \\gexec`;
const makeDump = async () => {
  const { pod } = await fencedServer();
  const make = 'printf "%s\n" "$1" | gzip >/pgleap/a.sql.gz && sha512sum </pgleap/a.sql.gz';
  dumpSum = (await runInPod(direct.kc, pod, ['sh', '-c', make, 'sh', dumpText])).slice(0, 128);
};
let dumpSum = '';
const jobScene = (activity: string, some: Fault[], go: (server: ServerRef) => Promise<unknown>): Scene => ({
  activity,
  only: (call, fault) => call.includes(' of a job') && some.includes(fault),
  before: makeDump,
  run: async () => await go(await fencedServer()),
  after: forgetJobs,
});

/** A refused command is refused in the same way whichever it is; where an activity may end between two of them is not. */
const eachCommand = (call: string, fault: Fault) =>
  !/command [2-9]$/.test(call) || ['reset before', 'reset after', '403', '429'].includes(fault);

/** Objects of the API server. */
export const objectScenes: Scene[] = [
  { activity: 'takeLease', run: () => takeLease(kube), after: () => run(() => releaseLease(plain)) },
  { activity: 'releaseLease', before: () => run(() => takeLease(plain)), run: () => releaseLease(kube) },
  { activity: 'beginJournal', run: () => beginJournal(kube), after: forgetJournal },
  { activity: 'journalUndo', run: () => journalUndo(kube), ...withJournal },
  {
    activity: 'journalUndone',
    before: async () => {
      await run(() => beginJournal(plain));
      await run(() => journalUndo(plain));
    },
    run: () => kube.journalUndone({ world, undoId: 'a' }),
    after: forgetJournal,
  },
  { activity: 'journalCommit', run: () => kube.journalCommit({ world }), ...withJournal },
  { activity: 'closeJournal', run: () => kube.closeJournal({ world, outcome: 'upgraded' }), ...withJournal },
  { activity: 'setReclaimPolicy', run: () => retain(kube), after: () => run(() => unretain(plain)) },
  { activity: 'restoreReclaimPolicy', before: () => run(() => retain(plain)), run: () => unretain(kube) },
  { activity: 'createScratch', run: () => scratch(kube), after: () => run(() => noScratch(plain)) },
  {
    activity: 'removeScratch',
    // Told in error that its claim is gone, it waits up to two minutes for what stays, then says NotStopped.
    only: (call, fault) => !(fault === '404' && call.includes('persistentvolumeclaims')),
    before: () => run(() => scratch(plain)),
    run: () => noScratch(kube),
  },
  { activity: 'suspendCronJob', run: () => suspend(kube), after: () => run(() => unsuspend(plain)) },
  { activity: 'restoreCronJob', before: () => run(() => suspend(plain)), run: () => unsuspend(kube) },
  {
    activity: 'resumeCronJob',
    before: () => run(() => suspend(plain)),
    run: () => kube.resumeCronJob({ world, service: service('blackbox') }),
  },
  {
    activity: 'observeService',
    run: () => kube.observeService({ world, service: service('metricity'), since: world.startedAt }),
  },
];

/** Pods that come and go, commands in them, and copies. */
export const podScenes: Scene[] = [
  { activity: 'stopService', run: () => stop(kube), after: () => run(() => restore(plain)) },
  { activity: 'restoreService', before: () => run(() => stop(plain)), run: () => restore(kube) },
  {
    activity: 'startService',
    before: () => run(() => stop(plain)),
    run: () => kube.startService({ world, service: service('metricity') }),
    after: () => run(() => restore(plain)),
  },
  { activity: 'nextTransaction', run: () => postgres.nextTransaction({ server: source }) },
  { activity: 'otherSessions', run: () => postgres.otherSessions({ server: source }) },
  { activity: 'countWrites', run: () => postgres.countWrites({ server: source }) },
  {
    activity: 'seeSource',
    only: eachCommand,
    run: () => postgres.seeSource({ world, database: facts.database }),
  },
  { activity: 'fenceSource', only: eachCommand, run: fence, after: () => run(lift) },
  { activity: 'liftSourceFence', only: eachCommand, before: () => run(fence), run: lift, after: () => run(lift) },
  { activity: 'copyOut', only: eachCommand, run: copyOut, after: forgetCopies },
  {
    activity: 'copyIn',
    only: eachCommand,
    before: () => run(copyOut),
    run: () => artifacts.copyIn({ world, artifact: copied, pod: source.pod, path: '/tmp/copy' }),
    after: forgetCopies,
  },
  jobScene('importDump', [...faults], (server) =>
    postgres.importDump({ world, server, path: '/pgleap/a.sql.gz', compression: 'gzip', sha512: dumpSum, name: 'a' }),
  ),
  jobScene('dump', ['timeout', 'reset before', 'reset after', '403'], (from) =>
    postgres.dump({ world, from, compression: 'gzip', estimateBytes: 0, name: 'a' }),
  ),
  jobScene('fingerprint', ['reset before', 'reset after'], (server) =>
    postgres.fingerprint({ world, server, name: 'a' }),
  ),
];

export function stage(): Stage {
  const secrets = kubeSecrets(proxied);
  return { proxy, world: state, secrets: () => secrets, clean: cleaner(secrets) };
}
