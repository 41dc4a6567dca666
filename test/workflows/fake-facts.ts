/** What there is in the world of a test before the upgrade. */
import type {
  BlockVolumeFact,
  DatabaseFact,
  ReconcilerFact,
  RouteFact,
  ServiceFact,
  SourceFacts,
} from '../../src/domain/facts.ts';

export function fakeFacts(namespace: string) {
  const services: ServiceFact[] = [
    service('Deployment', namespace, 'web', 2),
    service('Deployment', 'shop', 'orders', 1),
    service('StatefulSet', namespace, 'sleeping', 0),
    { ...service('Deployment', 'shop', 'reader', 1), readOnly: true, login: 'reader' },
    { ...service('CronJob', namespace, 'nightly', null), suspended: false },
    { ...service('CronJob', namespace, 'resting', null), suspended: true },
  ];
  const reconcilers: ReconcilerFact[] = [
    {
      kind: 'Kustomization',
      namespace: 'flux-system',
      name: 'apps',
      uid: 'uid-apps',
      apiVersion: 'kustomize.toolkit.fluxcd.io/v1',
      before: null,
      keeps: ['Deployment shop/orders'],
    },
  ];
  const database: DatabaseFact = {
    workload: { kind: 'Deployment', namespace, name: 'postgres', uid: 'uid-postgres' },
    pod: { namespace, name: 'postgres-0', uid: 'uid-pod', container: 'postgres' },
    podIp: '10.0.0.5',
    port: 5432,
    superuser: 'postgres',
    image: 'postgres:16',
    templateHash: 'template-1',
    mountPath: '/var/lib/postgresql/data',
    subPath: 'pgdata',
    volumeName: 'data',
    claim: {
      name: 'postgres-storage',
      uid: 'uid-claim',
      storageClass: 'block',
      accessModes: ['ReadWriteOnce'],
      volumeMode: 'Filesystem',
      requested: '10Gi',
      capacityBytes: 10 * 2 ** 30,
      labels: {},
      annotations: {},
    },
    volume: {
      pv: 'pvc-original',
      pvUid: 'uid-pv',
      reclaimPolicy: 'Delete',
      driver: 'linodebs.csi.linode.com',
      handle: '4711-pvcoriginal',
      spec: { csi: { driver: 'linodebs.csi.linode.com', volumeHandle: '4711-pvcoriginal' } },
    },
    pgdataEnv: null,
    whenScaled: 'Retain',
    terminationGraceSeconds: 30,
  };
  const routes: RouteFact[] = [
    { zone: 'z', pattern: 'example.test/*', prior: null },
    { zone: 'z', pattern: 'shop.example.test/*', prior: { id: 'r1', script: 'shop' } },
  ];
  const sourceFacts: SourceFacts = {
    versionNum: 160014,
    major: 16,
    systemIdentifier: '7',
    dataDirectory: '/var/lib/postgresql/data',
    hbaFile: '/var/lib/postgresql/data/pg_hba.conf',
    databases: 2,
    tables: 12,
    bytes: 1_000_000,
    roles: 3,
    extensions: [],
    preload: [],
    encoding: 'UTF8',
    locale: 'C',
    probeMs: [1],
  };
  const volumeFacts: BlockVolumeFact = {
    id: 4711,
    label: 'pvcoriginal',
    region: 'eu',
    sizeGb: 10,
    encryption: 'disabled',
    monthlyPrice: 1,
  };
  return { services, reconcilers, database, routes, sourceFacts, volumeFacts };
}

function service(kind: ServiceFact['kind'], namespace: string, name: string, replicas: number | null): ServiceFact {
  return {
    kind,
    namespace,
    name,
    uid: `uid-${name}`,
    replicas,
    suspended: null,
    readOnly: false,
    login: null,
    hpa: null,
  };
}
