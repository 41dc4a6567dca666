import { newStatus, type UpgradeStatus } from '../../src/domain/state.ts';
import type { PlanFacts } from '../../src/domain/plan.ts';
import type { BlockVolumeFact } from '../../src/domain/facts.ts';
import { planHash } from '../../src/domain/plan.ts';
import { specSchema, type Spec } from '../../src/domain/spec.ts';

export const spec: Spec = specSchema.parse({
  database: { namespace: 'databases' },
  target: { image: 'postgres:18' },
  retention: '15d',
});

export const facts: PlanFacts & { volume: BlockVolumeFact } = {
  cluster: {
    clusterUid: 'cluster-1',
    server: 'https://cluster',
    kubernetesVersion: '1.34',
    database: {
      workload: { kind: 'Deployment', namespace: 'databases', name: 'postgres', uid: 'u1' },
      pod: { namespace: 'databases', name: 'postgres-0', uid: 'u2', container: 'postgres' },
      podIp: '10.0.0.1',
      port: 5432,
      superuser: 'postgres',
      image: 'postgres:16',
      templateHash: 't',
      mountPath: '/var/lib/postgresql/data',
      subPath: null,
      volumeName: 'data',
      claim: {
        name: 'postgres-storage',
        uid: 'u3',
        storageClass: 'block',
        accessModes: ['ReadWriteOnce'],
        volumeMode: 'Filesystem',
        requested: '10Gi',
        capacityBytes: 10 * 2 ** 30,
        labels: {},
        annotations: {},
      },
      volume: { pv: 'pvc-1', pvUid: 'u4', reclaimPolicy: 'Delete', driver: 'csi', handle: '1-pvc1', spec: {} },
      pgdataEnv: null,
      whenScaled: 'Retain',
      terminationGraceSeconds: 30,
    },
    reconcilers: [],
    services: [],
  },
  source: {
    versionNum: 160014,
    major: 16,
    systemIdentifier: '7',
    dataDirectory: '/var/lib/postgresql/data',
    hbaFile: '/var/lib/postgresql/data/pg_hba.conf',
    databases: 2,
    tables: 12,
    bytes: 1000,
    roles: 3,
    extensions: [],
    preload: [],
    encoding: 'UTF8',
    locale: 'C',
    probeMs: [1.5],
  },
  volume: { id: 1, label: 'pvc1', region: 'eu', sizeGb: 10, encryption: 'disabled', monthlyPrice: 1 },
  routes: [],
  targetMajor: 18,
  artifacts: { queue: 'q', folder: '/artifacts' },
};

/** An upgrade whose preflight is done. */
export function planned(): UpgradeStatus {
  const status = newStatus('pgleap/databases/postgres', 'u1234abcd', '2026-01-01T00:00:00.000Z');
  status.spec = structuredClone(spec);
  status.plan = {
    facts,
    checks: [],
    forecast: { extraCost: null, downtimeSeconds: null },
    hash: planHash(spec, facts),
  };
  status.world = {
    clusterUid: 'cluster-1',
    upgradeId: 'u1234abcd',
    startedAt: status.startedAt,
    namespace: 'databases',
  };
  return status;
}

/** Of a server with next to nothing in it. */
export const fingerprint = {
  path: '/f',
  bytes: 1,
  sha512: 'f',
  databases: 1,
  tables: 1,
  rows: 1,
  sequences: 0,
  largeObjects: 0,
  roles: 1,
  seconds: 1,
};
