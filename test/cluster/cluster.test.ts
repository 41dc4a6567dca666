import { setTimeout as sleep } from 'node:timers/promises';
import { CoreV1Api, KubeConfig, type V1Container, type V1Pod, type V1PodSpec } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { execInPod } from '../../src/activities/kubernetes/exec.ts';
import { openCluster } from './open.ts';
import { restartComponent } from './up.ts';

const cluster = openCluster();
const config = new KubeConfig();
config.loadFromFile(cluster.kubeconfig);
const core = config.makeApiClient(CoreV1Api);
let namespace = '';

beforeAll(async () => {
  namespace =
    (await core.createNamespace({ body: { metadata: { generateName: 'pgleap-test-' } } })).metadata?.name ?? '';
});

afterAll(async () => {
  await core.deleteNamespace({ name: namespace });
});

interface PodParts {
  name: string;
  container: Omit<V1Container, 'name'>;
  spec?: Partial<V1PodSpec>;
  labels?: Record<string, string>;
}

async function createPod({ name, container, spec, labels = {} }: PodParts): Promise<void> {
  const containers = [{ name: 'main', ...container }];
  const grace = { terminationGracePeriodSeconds: 2 };
  await core.createNamespacedPod({
    namespace,
    body: { metadata: { name, labels }, spec: { ...grace, ...spec, containers } },
  });
}

async function untilPod(name: string, what: (pod: V1Pod) => boolean): Promise<V1Pod> {
  for (const started = Date.now(); ; await sleep(250)) {
    const pod = await core.readNamespacedPod({ namespace, name });
    if (what(pod)) return pod;
    if (Date.now() - started > 120_000) throw new Error(`waited in vain for ${name}: ${JSON.stringify(pod.status)}`);
  }
}

const isReady = (pod: V1Pod) =>
  pod.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;

async function exec(name: string, ...argv: string[]): Promise<string> {
  const uid = (await core.readNamespacedPod({ namespace, name })).metadata?.uid ?? '';
  const result = await execInPod(config, { namespace, name, container: 'main', uid }, argv);
  if (result.code !== 0) throw new Error(`${argv.join(' ')} ended with ${result.code}: ${result.stderr}`);
  return result.stdout.toString().trim();
}

const sql = (name: string, query: string) => exec(name, 'psql', '-U', 'postgres', '-XAtc', query);

function postgres(major: number, env: Record<string, string> = {}): Omit<V1Container, 'name'> {
  return {
    image: `postgres:${major}`,
    env: Object.entries({ POSTGRES_PASSWORD: 'secret', ...env }).map(([name, value]) => ({ name, value })),
    readinessProbe: {
      exec: { command: ['pg_isready', '-h', '127.0.0.1', '-U', 'postgres'] },
      periodSeconds: 1,
      failureThreshold: 100,
    },
  };
}

const logs = (name: string) => core.readNamespacedPodLog({ namespace, name });

test('the node is ready, and every namespace gets its service account', async () => {
  const nodes = await core.listNode();
  const ready = nodes.items.map(({ status }) => status?.conditions?.find(({ type }) => type === 'Ready')?.status);
  expect(ready).toContain('True');
  await expect(core.readNamespacedServiceAccount({ namespace, name: 'default' })).resolves.toBeDefined();
});

test.each([15, 16, 17, 18])('PostgreSQL %i starts in a pod and answers over exec', async (major) => {
  const name = `postgres-${major}`;
  await createPod({ name, container: postgres(major) });
  await untilPod(name, isReady);
  expect(await sql(name, 'select version()')).toMatch(new RegExp(`^PostgreSQL ${major}\\.`));
  // What upgrades look for in the image.
  for (const program of [
    'pg_dump',
    'pg_dumpall',
    'pg_restore',
    'vacuumdb',
    'pg_controldata',
    'gzip',
    'zstd',
    'sha512sum',
  ]) {
    expect(await exec(name, program, '--version')).not.toBe('');
  }
  expect(await sql(name, 'show data_directory')).toBe(
    major >= 18 ? '/var/lib/postgresql/18/docker' : '/var/lib/postgresql/data',
  );
  expect(await sql(name, 'show lc_collate').catch(() => sql(name, 'select datcollate from pg_database limit 1'))).toBe(
    'en_US.utf8',
  );
});

describe('the entrypoint', () => {
  test.each([15, 18])(
    'of %i initialises once, on the socket only, with what the environment and files say',
    async (major) => {
      const name = `init-${major}`;
      const script = "create table seen as select current_setting('listen_addresses') as at_init, current_user as me";
      await core.createNamespacedConfigMap({ namespace, body: { metadata: { name }, data: { 'seen.sql': script } } });
      await core.createNamespacedSecret({
        namespace,
        body: { metadata: { name }, stringData: { password: 'from a file' } },
      });
      const data = major >= 18 ? '/var/lib/postgresql' : '/var/lib/postgresql/data';
      await createPod({
        name,
        container: {
          ...postgres(major),
          args: ['-c', 'max_connections=33'],
          env: [
            { name: 'POSTGRES_USER', value: 'shop' },
            { name: 'POSTGRES_DB', value: 'Shop data' },
            { name: 'POSTGRES_PASSWORD_FILE', value: '/run/password/password' },
            { name: 'POSTGRES_INITDB_ARGS', value: '--data-checksums' },
          ],
          volumeMounts: [
            { name: 'data', mountPath: data },
            { name: 'scripts', mountPath: '/docker-entrypoint-initdb.d' },
            { name: 'password', mountPath: '/run/password' },
          ],
        },
        spec: {
          volumes: [
            { name: 'data', emptyDir: {} },
            { name: 'scripts', configMap: { name } },
            { name: 'password', secret: { secretName: name } },
          ],
        },
      });
      await untilPod(name, isReady);
      const shop = (query: string) => exec(name, 'psql', '-U', 'shop', '-d', 'Shop data', '-XAtc', query);
      expect(await shop('select at_init, me from seen')).toBe('|shop');
      expect(await shop("select current_setting('listen_addresses'), current_setting('max_connections')")).toBe('*|33');
      expect(await shop('show data_checksums')).toBe('on');
      expect(await exec(name, 'sh', '-c', 'stat -c %u /proc/1')).toBe('999');
      const password = [
        'sh',
        '-c',
        'PGPASSWORD="$1" psql -U shop -h "$(hostname -i)" -d "Shop data" -XAtc "select 1"',
        'sh',
      ];
      expect(await exec(name, ...password, 'from a file')).toBe('1');
      await expect(exec(name, ...password, 'another')).rejects.toThrow(/password authentication failed/);

      // SIGINT is a fast shutdown; the container starts again on the same data.
      await exec(name, 'sh', '-c', 'kill -INT 1');
      await untilPod(name, (pod) => (pod.status?.containerStatuses?.[0]?.restartCount ?? 0) > 0 && isReady(pod));
      expect(await logs(name)).toMatch(/Skipping initialization/);
      expect(await shop('select count(*) from seen')).toBe('1');
    },
  );

  test('refuses to initialise without a password', async () => {
    const { env: _, readinessProbe: __, ...container } = postgres(15);
    await createPod({ name: 'no-password', container, spec: { restartPolicy: 'Never' } });
    await untilPod('no-password', (pod) => pod.status?.phase === 'Failed');
    expect(await logs('no-password')).toMatch(/superuser password is not specified/);
  });

  test('of 18 refuses a volume where 17 had its data', async () => {
    await createPod({
      name: 'old-mount',
      container: { ...postgres(18), volumeMounts: [{ name: 'data', mountPath: '/var/lib/postgresql/data' }] },
      spec: { restartPolicy: 'Never', volumes: [{ name: 'data', emptyDir: {} }] },
    });
    await untilPod('old-mount', (pod) => pod.status?.phase === 'Failed');
    expect(await logs('old-mount')).toMatch(/in 18\+/);
  });
});

test('a pod reaches another through its Service by name, headless and not', async () => {
  await createPod({
    name: 'server',
    container: postgres(17),
    labels: { app: 'server' },
    spec: { hostname: 'first', subdomain: 'all' },
  });
  for (const [name, clusterIP] of [
    ['one', undefined],
    ['all', 'None'],
  ] as const) {
    const spec = {
      selector: { app: 'server' },
      ports: [{ port: 5432 }],
      ...(clusterIP === undefined ? {} : { clusterIP }),
    };
    await core.createNamespacedService({ namespace, body: { metadata: { name }, spec } });
  }
  await createPod({ name: 'client', container: { image: 'postgres:18', command: ['sleep', 'infinity'] } });
  await untilPod('client', isReady);
  await untilPod('server', isReady);
  // Names follow readiness a moment later.
  await sleep(2000);
  for (const host of [`one.${namespace}`, 'one', `one.${namespace}.svc.cluster.local`, 'all', 'first.all']) {
    const url = `postgresql://postgres:secret@${host}/postgres`;
    expect(await exec('client', 'psql', url, '-XAtc', 'show server_version_num')).toMatch(/^17/);
  }
  await expect(exec('client', 'getent', 'hosts', `absent.${namespace}`)).rejects.toThrow(/ended with 2/);
});

test.runIf(cluster.own)('a pod goes on while API server and kubelet are restarted', async () => {
  await createPod({ name: 'steady', container: postgres(17) });
  await untilPod('steady', isReady);
  const started = await sql('steady', 'select pg_postmaster_start_time()');
  for (const component of ['kube-apiserver', 'kubelet']) {
    await restartComponent(component);
    await expect
      .poll(() => sql('steady', 'select pg_postmaster_start_time()').catch(() => ''), { timeout: 60_000 })
      .toBe(started);
  }
});

test.runIf(cluster.own)('the example service and backup images run their programs', async () => {
  await createPod({
    name: 'service',
    container: { image: 'pgleap/sandbox-service:1' },
    spec: { restartPolicy: 'Never' },
  });
  await untilPod('service', (pod) => pod.status?.phase === 'Failed');
  expect(await logs('service')).toMatch(/SERVICE_MODE/);
  const backup = { image: 'pgleap/sandbox-backup:1', command: ['sh', '-c', 'pg_dump --version && id -u'] };
  await createPod({ name: 'backup', container: backup, spec: { restartPolicy: 'Never' } });
  await untilPod('backup', (pod) => pod.status?.phase === 'Succeeded');
  expect(await logs('backup')).toMatch(/^pg_dump \(PostgreSQL\) 18[^]*65534/);
});
