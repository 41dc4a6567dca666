import { describe, expect, test } from 'vitest';
import {
  candidatePod,
  claimMount,
  containerOf,
  fencedSpec,
  lastingSpec,
  podSpecOf,
  type WorkloadSpec,
} from '../../src/activities/kubernetes/template.ts';
import type { DatabaseFact, SourceFacts, World } from '../../src/domain/facts.ts';

const world: World = {
  clusterUid: 'c',
  upgradeId: 'u12345678',
  startedAt: '2026-01-01T00:00:00Z',
  namespace: 'databases',
};
const database = {
  pod: { namespace: 'databases', name: 'postgres-1', uid: 'p', container: 'postgres' },
  volumeName: 'storage',
  claim: { name: 'postgres-storage' },
} as DatabaseFact;
const source = { preload: ['pg_stat_statements', 'pg_cron', 'odd name'] } as SourceFacts;

/** Everything that a template may hold beside the server, and that acts on the outside or would be in the way. */
const original: WorkloadSpec = {
  replicas: 1,
  selector: { matchLabels: { app: 'postgres' } },
  template: {
    metadata: { labels: { app: 'postgres' } },
    spec: {
      serviceAccountName: 'postgres',
      terminationGracePeriodSeconds: 60,
      initContainers: [
        { name: 'chown', image: 'busybox' },
        { name: 'proxy', image: 'proxy', restartPolicy: 'Always' },
      ],
      containers: [
        {
          name: 'postgres',
          image: 'postgres:16',
          args: ['-c', 'config_file=/etc/postgresql/postgresql.conf'],
          env: [
            { name: 'TZ', value: 'UTC' },
            { name: 'POSTGRES_INITDB_WALDIR', value: '/wal' },
          ],
          envFrom: [{ secretRef: { name: 'postgres-env' } }],
          ports: [{ containerPort: 5432, hostPort: 5432 }],
          resources: { limits: { memory: '1Gi' } },
          securityContext: { runAsUser: 999 },
          livenessProbe: { tcpSocket: { port: 5432 } },
          readinessProbe: { exec: { command: ['pg_isready'] } },
          lifecycle: { preStop: { exec: { command: ['sh', '-c', 'tell somebody'] } } },
          volumeMounts: [
            { name: 'storage', mountPath: '/var/lib/postgresql/data', subPath: 'pgdata' },
            { name: 'config', mountPath: '/etc/postgresql' },
            { name: 'scripts', mountPath: '/docker-entrypoint-initdb.d/10.sql', subPath: '10.sql' },
            { name: 'dshm', mountPath: '/dev/shm' },
            { name: 'archive', mountPath: '/archive' },
          ],
        },
        { name: 'exporter', image: 'exporter:1' },
      ],
      volumes: [
        { name: 'storage', persistentVolumeClaim: { claimName: 'postgres-storage' } },
        { name: 'config', configMap: { name: 'postgres-config' } },
        { name: 'scripts', configMap: { name: 'scripts' } },
        { name: 'dshm', emptyDir: { medium: 'Memory' } },
        { name: 'archive', persistentVolumeClaim: { claimName: 'archive' } },
      ],
    },
  },
};

const lasting = lastingSpec(original, {
  container: 'postgres',
  image: 'postgres:18',
  pgdata: '/var/lib/postgresql/data',
});

function settingsOf(args: string[] = []): Record<string, string> {
  const pairs = args.flatMap((arg, at) => (args[at - 1] === '-c' ? [arg] : []));
  return Object.fromEntries(pairs.map((pair) => [pair.slice(0, pair.indexOf('=')), pair.slice(pair.indexOf('=') + 1)]));
}

describe('lastingSpec', () => {
  test('changes image and PGDATA and nothing else', () => {
    const container = containerOf(lasting, 'postgres');
    expect(container?.image).toBe('postgres:18');
    expect(container?.env?.at(-1)).toEqual({ name: 'PGDATA', value: '/var/lib/postgresql/data' });
    const back = lastingSpec(lasting, { container: 'postgres', image: 'postgres:16', pgdata: null });
    const without = JSON.parse(
      JSON.stringify(back).replace(',{"name":"PGDATA","value":"/var/lib/postgresql/data"}', ''),
    );
    expect(without).toEqual(original);
  });
});

describe('fencedSpec', () => {
  const pod = podSpecOf(fencedSpec(lasting, world, database, source, 18));
  const container = pod.containers[0];

  test('runs only the server, without whatever would end, fill or open it', () => {
    expect(pod.containers.map(({ name }) => name)).toEqual(['postgres']);
    expect(pod.initContainers?.map(({ name }) => name)).toEqual(['chown']);
    for (const key of ['livenessProbe', 'readinessProbe', 'startupProbe', 'lifecycle'])
      expect(container).not.toHaveProperty(key);
    expect(settingsOf(container?.args)).toMatchObject({
      listen_addresses: '',
      ssl: 'off',
      archive_mode: 'off',
      fsync: 'off',
    });
    const mounts = (container?.volumeMounts ?? []).map(({ name, mountPath, subPath }) => [name, mountPath, subPath]);
    expect(mounts).toContainEqual(['storage', '/pgleap', 'pgleap-u12345678']);
    expect(mounts).toContainEqual(['pgleap-no-init-scripts', '/docker-entrypoint-initdb.d', undefined]);
    expect(mounts.flat()).not.toContain('/docker-entrypoint-initdb.d/10.sql');
  });

  test('leaves the lasting form as it was', () => {
    expect(JSON.stringify(lasting)).not.toContain('pgleap');
    expect(podSpecOf(lasting).containers).toHaveLength(2);
  });

  test('keeps pg_cron loaded, since its extension needs that, but lets it start nothing', () => {
    const settings = settingsOf(container?.args);
    expect(settings['shared_preload_libraries']).toBe('pg_stat_statements,pg_cron,"odd name"');
    expect(settings).toMatchObject({ 'cron.launch_active_jobs': 'off', 'cron.max_running_jobs': '0' });
  });

  test('knows settings by major', () => {
    expect(settingsOf(container?.args)).toHaveProperty('summarize_wal', 'off');
    const sixteen = podSpecOf(fencedSpec(lasting, world, database, source, 16)).containers[0];
    expect(settingsOf(sixteen?.args)).not.toHaveProperty('summarize_wal');
  });
});

describe('candidatePod', () => {
  const { metadata, spec } = candidatePod(lasting, world, database, source, {
    major: 18,
    generation: 2,
    nodeName: 'node-1',
  });
  const container = spec?.containers[0];

  test('is of this upgrade and selected by no Service', () => {
    expect(metadata?.name).toBe('pgleap-u12345678-candidate');
    expect(metadata?.labels).toMatchObject({ 'pgleap.dev/upgrade': 'u12345678' });
    expect(metadata?.labels).not.toHaveProperty('app');
  });

  test('has the server’s configuration and none of its surroundings', () => {
    expect(spec?.containers).toHaveLength(1);
    expect(spec?.initContainers).toBeUndefined();
    expect(container).toMatchObject({
      image: 'postgres:18',
      envFrom: [{ secretRef: { name: 'postgres-env' } }],
      resources: { limits: { memory: '1Gi' } },
      securityContext: { runAsUser: 999 },
    });
    for (const key of ['ports', 'livenessProbe', 'readinessProbe', 'lifecycle'])
      expect(container).not.toHaveProperty(key);
    expect(container?.args?.slice(0, 2)).toEqual(['-c', 'config_file=/etc/postgresql/postgresql.conf']);
    expect(container?.env).toEqual([
      { name: 'TZ', value: 'UTC' },
      { name: 'PGDATA', value: '/pgleap/pgdata-2' },
    ]);
    expect(spec?.automountServiceAccountToken).toBe(false);
    // A user who is not root writes to the volume as its group.
    expect(spec?.securityContext).toEqual({ fsGroup: 999 });
  });

  test('mounts ConfigMaps, Secrets and memory, and no claim but its own', () => {
    expect(container?.volumeMounts?.map(({ mountPath }) => mountPath)).toEqual([
      '/etc/postgresql',
      '/dev/shm',
      '/pgleap',
      '/docker-entrypoint-initdb.d',
    ]);
    const claims = spec?.volumes?.map(({ persistentVolumeClaim }) => persistentVolumeClaim?.claimName).filter(Boolean);
    expect(claims).toEqual(['pgleap-u12345678-scratch']);
  });
});

test('a StatefulSet’s own claim is found by its template', () => {
  const spec: WorkloadSpec = {
    selector: {},
    serviceName: 'postgres',
    template: { spec: { containers: [{ name: 'postgres', volumeMounts: [{ name: 'data', mountPath: '/data' }] }] } },
    volumeClaimTemplates: [{ metadata: { name: 'data' } }],
  };
  expect(claimMount(spec, 'postgres', 'data-postgres-0')?.mount.mountPath).toBe('/data');
  expect(claimMount(spec, 'postgres', 'other-postgres-0')).toBeUndefined();
});
