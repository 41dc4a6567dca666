/** Worlds in which an activity makes one change first, as the API server would tell of them. */
import type { KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import type { DatabaseFact, ServiceFact, World } from '../../src/domain/facts.ts';

const namespace = 'db';
export const world: World = {
  clusterUid: 'uid-c',
  upgradeId: 'u00000001',
  startedAt: '2026-01-01T00:00:00Z',
  namespace,
};
export const meta = (name: string, more: object = {}) => ({
  name,
  namespace,
  uid: `uid-${name}`,
  resourceVersion: '7',
  creationTimestamp: '2025-01-01T00:00:00Z',
  ...more,
});
const made = { labels: { 'pgleap.dev/upgrade': world.upgradeId }, creationTimestamp: '2026-01-01T00:10:00Z' };

const volume: DatabaseFact['volume'] = {
  pv: 'pv-old',
  pvUid: 'uid-pv-old',
  reclaimPolicy: 'Delete',
  driver: 'linodebs.csi.linode.com',
  handle: '7-pvold',
  spec: { capacity: { storage: '10Gi' }, accessModes: ['ReadWriteOnce'], csi: {} },
};
const database: DatabaseFact = {
  workload: { kind: 'Deployment', namespace, name: 'postgres', uid: 'uid-postgres' },
  pod: { namespace, name: 'postgres-1', uid: 'uid-postgres-1', container: 'postgres' },
  podIp: '10.0.0.1',
  port: 5432,
  superuser: 'postgres',
  image: 'postgres:16',
  templateHash: 'h',
  mountPath: '/var/lib/postgresql/data',
  subPath: null,
  volumeName: 'data',
  claim: {
    name: 'data',
    uid: 'uid-data',
    storageClass: 'block',
    accessModes: ['ReadWriteOnce'],
    volumeMode: 'Filesystem',
    requested: '10Gi',
    capacityBytes: 10 * 2 ** 30,
    labels: {},
    annotations: {},
  },
  volume,
  pgdataEnv: null,
  whenScaled: 'Retain',
  terminationGraceSeconds: 30,
};
const service: ServiceFact = {
  kind: 'Deployment',
  namespace: 'web',
  name: 'site',
  uid: 'uid-site',
  replicas: 2,
  suspended: null,
  readOnly: false,
  login: null,
  hpa: null,
};
const atRest = { services: [service], reconcilers: [] };

/** A Deployment's fields that decide what is done with it. */
const workload = (name: string, image: string, replicas: number, more: object = {}) => ({
  kind: 'Deployment',
  metadata: meta(name, { generation: 3, annotations: {}, ...more }),
  spec: {
    replicas,
    selector: { matchLabels: { app: name }, matchExpressions: [{ key: 'a', operator: 'In', values: ['b'] }] },
    template: { metadata: { labels: { app: name } }, spec: { containers: [{ name, image }] } },
  },
  status: { replicas, readyReplicas: replicas },
});
const pod = (name: string, owner: string, more: object = {}) => ({
  kind: 'Pod',
  metadata: meta(name, {
    ownerReferences: [{ kind: 'ReplicaSet', name: `${owner}-abc`, uid: 'uid-rs', controller: true }],
    ...more,
  }),
  spec: { containers: [{ name: owner, image: 'postgres:16' }], terminationGracePeriodSeconds: 30 },
  status: { phase: 'Running', containerStatuses: [{ name: owner, restartCount: 0, state: {} }] },
});
const claim = (pv: string, more: object = {}) => ({
  kind: 'PersistentVolumeClaim',
  metadata: meta('data', more),
  spec: { volumeName: pv },
  status: { phase: 'Bound' },
});
const pv = (name: string, policy: string, phase: string, claimUid: string, more: object = {}) => ({
  kind: 'PersistentVolume',
  metadata: meta(name, more),
  spec: {
    persistentVolumeReclaimPolicy: policy,
    csi: { driver: volume.driver, volumeHandle: name === volume.pv ? volume.handle : `8-${name}` },
    claimRef: { namespace, name: 'data', uid: claimUid },
  },
  status: { phase },
});

const databaseAt = `apis/apps/v1/namespaces/${namespace}/deployments/postgres`;
const podsAt = `api/v1/namespaces/${namespace}/pods`;
const siteAt = 'apis/apps/v1/namespaces/web/deployments/site';
const sitePodsAt = 'api/v1/namespaces/web/pods';
const claimAt = `api/v1/namespaces/${namespace}/persistentvolumeclaims/data`;
export const pvAt = 'api/v1/persistentvolumes/pv-old';
const pvsAt = 'api/v1/persistentvolumes';
export const eraserAt = `${podsAt}/pgleap-u00000001-eraser`;
const attachmentsAt = 'apis/storage.k8s.io/v1/volumeattachments';
const newUid = '01234567-89ab-cdef-0123-456789abcdef';
const newPv = `pvc-${newUid}`;

const halted = { [databaseAt]: workload('postgres', 'postgres:16', 0), [podsAt]: [], [attachmentsAt]: [] };
const stopped = { [siteAt]: workload('site', 'site', 0, { namespace: 'web' }), [sitePodsAt]: [] };
const oldReleased = pv('pv-old', 'Retain', 'Released', 'uid-data');
const newVolume = (policy: string) =>
  pv(newPv, policy, 'Released', newUid, { creationTimestamp: made.creationTimestamp });

export interface Scene {
  does(on: KubernetesActivities): Promise<unknown>;
  /** What the API server has, by path; a list as an array. */
  objects: Record<string, object>;
  /** The first change in the right world: no other is ever the first. */
  change: string;
  /** The change after that: made where what was in its way is not known for the upgrade's own any more. */
  next?: string;
  /** Made under the resourceVersion that was read. */
  conditional?: true;
  /** What must be as it was read for it: uids, and the marks that say whose an object is and what it holds. */
  needs: Record<string, string[]>;
}

const uid = 'metadata.uid';
const ofDatabase = { [databaseAt]: [uid, 'spec.replicas'] };
const ofOriginal = { [pvAt]: [uid, 'spec.persistentVolumeReclaimPolicy', 'spec.csi.volumeHandle'] };
/** No plan knows the uid of what the upgrade itself made: it is deleted under the one that was read. */
const ofOurs = ['metadata.labels'];
const back = (on: KubernetesActivities) => on.rebindOriginal({ world, database, volume: null, cloneLabel: 'clone' });

export const scenes: Record<string, Scene> = {
  'setReclaimPolicy, to Retain': {
    does: (on) => on.setReclaimPolicy({ world, volume, policy: 'Retain' }),
    objects: { [pvAt]: pv('pv-old', 'Delete', 'Bound', 'uid-data') },
    change: `PATCH ${pvAt}`,
    needs: { [pvAt]: [uid] },
  },
  'restoreReclaimPolicy, to Delete': {
    does: (on) => on.restoreReclaimPolicy({ world, volume }),
    objects: { [pvAt]: pv('pv-old', 'Retain', 'Bound', 'uid-data'), [claimAt]: claim('pv-old') },
    change: `PATCH ${pvAt}`,
    needs: { [pvAt]: [uid, 'spec.claimRef', 'status.phase'], [claimAt]: [uid] },
  },
  'stopService, that runs': {
    does: (on) => on.stopService({ world, service }),
    objects: {
      [siteAt]: workload('site', 'site', 2, { namespace: 'web' }),
      [sitePodsAt]: [pod('site-1', 'site', { namespace: 'web' })],
    },
    change: `PATCH ${siteAt}`,
    needs: { [siteAt]: [uid, 'spec.replicas'] },
  },
  'haltDatabase, while it runs': {
    does: (on) => on.haltDatabase({ world, database, atRest }),
    objects: {
      ...stopped,
      [databaseAt]: workload('postgres', 'postgres:16', 1),
      [podsAt]: [pod('postgres-1', 'postgres')],
      [attachmentsAt]: [],
    },
    change: `PATCH ${databaseAt}`,
    conditional: true,
    needs: {
      [databaseAt]: [uid, 'spec.template.spec.containers.0.image'],
      [siteAt]: [uid, 'spec.replicas'],
    },
  },
  'replaceClaim, with the original claim': {
    does: (on) => on.replaceClaim({ world, database, minBytes: 0, atRest }),
    objects: { ...stopped, ...halted, [pvAt]: pv('pv-old', 'Retain', 'Bound', 'uid-data'), [claimAt]: claim('pv-old') },
    change: `DELETE ${claimAt}`,
    needs: { ...ofDatabase, ...ofOriginal, [siteAt]: [uid, 'spec.replicas'], [claimAt]: [uid] },
  },
  'replaceClaim, once that is gone': {
    does: (on) => on.replaceClaim({ world, database, minBytes: 0, atRest }),
    objects: { ...stopped, ...halted, [pvAt]: oldReleased },
    change: `POST api/v1/namespaces/${namespace}/persistentvolumeclaims`,
    needs: { ...ofDatabase, [siteAt]: [uid, 'spec.replicas'], [pvAt]: [...(ofOriginal[pvAt] ?? []), 'status.phase'] },
  },
  'rebindOriginal, from a new claim': {
    does: back,
    objects: {
      ...halted,
      [pvAt]: oldReleased,
      [pvsAt]: [oldReleased, newVolume('Delete')],
      [claimAt]: claim(newPv, made),
    },
    change: `DELETE ${claimAt}`,
    needs: { ...ofDatabase, [pvAt]: [uid], [claimAt]: ofOurs },
  },
  'rebindOriginal, with a new volume left under Retain': {
    does: back,
    objects: { ...halted, [pvAt]: oldReleased, [pvsAt]: [oldReleased, newVolume('Retain')] },
    change: `PATCH ${pvsAt}/${newPv}`,
    next: `PATCH ${pvAt}`,
    conditional: true,
    needs: { ...ofDatabase, [pvAt]: [uid] },
  },
  'rebindOriginal, with nothing in its way': {
    does: back,
    objects: { ...halted, [pvAt]: oldReleased, [pvsAt]: [oldReleased] },
    change: `PATCH ${pvAt}`,
    conditional: true,
    needs: { ...ofDatabase, [pvAt]: [uid, 'status.phase'] },
  },
  'rebindOriginal, with an eraser left': {
    does: back,
    objects: {
      ...halted,
      [pvAt]: oldReleased,
      [pvsAt]: [oldReleased],
      [eraserAt]: pod('pgleap-u00000001-eraser', 'eraser', made),
    },
    change: `DELETE ${eraserAt}`,
    next: `PATCH ${pvAt}`,
    needs: { ...ofDatabase, [eraserAt]: ofOurs },
  },
  'removeOriginal, its PV': {
    does: (on) =>
      on.removeOriginal({
        world,
        database,
        volume: { id: 7, label: 'pvold', region: 'eu', sizeGb: 10, encryption: 'x', monthlyPrice: null },
      }),
    objects: { [pvAt]: oldReleased, [attachmentsAt]: [] },
    change: `DELETE ${pvAt}`,
    needs: { [pvAt]: [uid, 'spec.csi.volumeHandle', 'status.phase'] },
  },
};

const { claimRef: _claim, ...spec } = pv('pv-old', 'Retain', 'Bound', '').spec;
export const unclaimed = { ...pv('pv-old', 'Retain', 'Bound', ''), spec };
