/** Streams into real pods, and what a node and a control plane do to them. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { copyIn, copyOut } from '../../src/activities/artifacts/copy.ts';
import { openStore } from '../../src/activities/artifacts/store.ts';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { clearJob, startJob } from '../../src/activities/kubernetes/jobs.ts';
import { dump } from '../../src/activities/postgres/dump.ts';
import { importDump } from '../../src/activities/postgres/import.ts';
import { eventually, openAccess } from '../../src/sandbox/world/access.ts';
import type { DumpFact, ServerRef } from '../../src/domain/facts.ts';
import { failureOf, run } from '../activities/environment.ts';
import { raiseServers, superuser, superuserPassword, type Servers } from '../activities/postgres-parts.ts';
import { streamTests } from '../activities/stream-tests.ts';
import { startTcpProxy } from '../activities/tcp-proxy.ts';
import { openCluster } from './open.ts';
import { restartComponent } from './up.ts';

const cluster = openCluster();
const kc = new KubeConfig();
kc.loadFromFile(cluster.kubeconfig);
const access = openAccess(kc);

async function open(): Promise<Servers> {
  const name = `streams-${randomBytes(3).toString('hex')}`;
  const close = async () => void (await access.core.deleteNamespace({ name }));
  try {
    return { ...(await raiseServers(access, 16, name)), close };
  } catch (error) {
    await close();
    throw error;
  }
}

describe('in the cluster', () => streamTests(open));

describe.runIf(cluster.own)('when the cluster is at work on itself', () => {
  let servers: Servers;
  let folder: string;
  let from: ServerRef;
  let dumped: DumpFact;

  beforeAll(async () => {
    servers = await open();
    from = { ...servers.source, pod: servers.candidate.pod, host: servers.sourceIp };
    folder = await mkdtemp(path.join(tmpdir(), 'pgleap-streams-'));
  });
  afterAll(async () => {
    await servers.close();
    await rm(folder, { recursive: true, force: true });
  });

  const inCandidate = (script: string) =>
    runInPod(kc, servers.candidate.pod, ['sh', '-c', script], { timeoutMs: 60_000 });
  const sumOf = async (file: string) => (await inCandidate(`sha512sum <${file}`)).slice(0, 128);

  test('a copy goes on with an API server that was restarted in its middle, each way', async () => {
    const bytes = 48 << 20;
    await inCandidate(`head -c ${bytes} /dev/urandom >/pgleap/file`);
    const artifact = { name: 'file', bytes, sha512: await sumOf('/pgleap/file') };
    const store = await openStore(path.join(folder, 'store'));
    const proxy = await startTcpProxy(kc);
    onTestFinished(() => proxy.close());
    // Slow enough for a restart to lie inside it.
    proxy.fault = { how: 'drip', bytesPerSecond: 1_500_000 };
    const { world, candidate } = servers;
    const through = async (way: 'up' | 'down', copy: () => Promise<unknown>) => {
      const moved = proxy.moved[way];
      let over = false;
      const copied = run(copy).finally(() => (over = true));
      const restarted = expect
        .poll(() => proxy.moved[way] - moved, { timeout: 60_000, interval: 20 })
        .toBeGreaterThan(4 << 20)
        .then(() => restartComponent('kube-apiserver'));
      await Promise.all([copied, restarted.then(() => expect(over).toBe(false))]);
    };
    await through('down', () =>
      copyOut(proxy.kubeConfig, store, { world, pod: candidate.pod, path: '/pgleap/file', ...artifact }),
    );
    await through('up', () =>
      copyIn(proxy.kubeConfig, store, { world, artifact, pod: candidate.pod, path: '/pgleap/back' }),
    );
    expect(await sumOf('/pgleap/back')).toBe(artifact.sha512);
  }, 400_000);

  test('a dump goes on while the kubelet is restarted, and is found again', async () => {
    const { world, candidate } = servers;
    // For as long as somebody holds this table, the dump waits for it.
    const hold = `exec psql -h ${servers.sourceIp} -U ${superuser} -d postgres -c 'BEGIN; CREATE TABLE held (i int); COMMIT; BEGIN; LOCK TABLE held; SELECT pg_sleep(600)'`;
    const env = { PGPASSWORD: superuserPassword };
    await startJob(kc, candidate.pod, { name: 'hold', script: hold, env });
    const locks = `SELECT count(*) FROM pg_locks WHERE relation = to_regclass('held') AND mode = 'AccessExclusiveLock'`;
    const lockers = () => servers.sql(servers.source.pod, 'postgres', locks);
    await expect.poll(lockers, { timeout: 60_000 }).toBe('1\n');
    const arg = { world, from, compression: 'gzip', estimateBytes: 0, name: 'held' } as const;
    let over = false;
    const going = run(() => dump(kc, arg)).finally(() => (over = true));
    const pid = await eventually('the job', 60, () => inCandidate('cat /pgleap/jobs/dump-held/pid'));
    await restartComponent('kubelet');
    expect(over).toBe(false);
    // The server does not notice that its client is gone.
    const free = `SELECT pg_terminate_backend(pid) FROM pg_locks WHERE relation = 'held'::regclass AND mode = 'AccessExclusiveLock'`;
    await eventually('the kubelet', 50, () => servers.sql(servers.source.pod, 'postgres', free));
    await clearJob(kc, candidate.pod, 'hold');
    dumped = await going;
    expect(await inCandidate('cat /pgleap/jobs/dump-held/pid')).toBe(pid);
    expect(await sumOf(dumped.path)).toBe(dumped.sha512);
    expect(await run(() => dump(kc, arg))).toEqual(dumped);
  }, 300_000);

  test('an import whose pod is evicted says that the pod is lost', async () => {
    const {
      world,
      candidate,
      candidate: { pod },
    } = servers;
    const { path: file, compression, sha512 } = dumped;
    const importing = run(() =>
      importDump(kc, { world, server: candidate, path: file, compression, sha512, name: 'evicted' }),
    );
    const failed = failureOf(importing, 'PodLost', [superuserPassword]);
    // Held there: it shall not be over before.
    await eventually('the import', 60, () => inCandidate('kill -STOP "$(cat /pgleap/jobs/import-evicted/pid)"'));
    await access.core.createNamespacedPodEviction({
      namespace: pod.namespace,
      name: pod.name,
      body: { metadata: { name: pod.name }, deleteOptions: { gracePeriodSeconds: 0 } },
    });
    expect((await failed).message).toContain(`pod ${pod.namespace}/${pod.name} is gone`);
  });
});
