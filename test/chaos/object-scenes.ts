/** Activities that read and change objects of the API server. */
import { names, upgradeLabel } from '../../src/activities/kubernetes/identity.ts';
import type { KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import type { BlockVolumeFact, ReconcilerFact } from '../../src/domain/facts.ts';
import type { Undo } from '../../src/domain/undo.ts';
import { expect } from 'vitest';
import { run } from '../activities/environment.ts';
import { oldWorldOf } from '../support/old-world.ts';
import { customObjects, defineKinds } from '../support/reconcilers.ts';
import { toldGone, type Scene } from './scene.ts';
import type { Fault } from './faults.ts';
import {
  direct,
  facts,
  kube,
  namespace,
  objects,
  plain,
  removed,
  service,
  spec,
  stageOf,
  workflowId,
  world,
} from './cluster.ts';

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
/** Under the policy that deletes: going back to it is a change. */
const loose = () => ({ ...facts.database.volume, reclaimPolicy: 'Delete' as const });
const retain = (on: KubernetesActivities) => on.setReclaimPolicy({ world, volume: loose(), policy: 'Retain' });
const unretain = (on: KubernetesActivities) => on.restoreReclaimPolicy({ world, volume: loose() });
const scratch = (on: KubernetesActivities) => on.createScratch({ world, claim: facts.database.claim, bytes: 1 });
const noScratch = (on: KubernetesActivities) => on.removeScratch({ world });
const suspend = (on: KubernetesActivities) => on.suspendCronJob({ world, service: service('blackbox') });
const unsuspend = (on: KubernetesActivities) => on.restoreCronJob({ world, service: service('blackbox') });

/** As Flux keeps the service. */
async function reconciler(): Promise<ReconcilerFact> {
  if (kept !== undefined) return kept;
  await defineKinds(direct.kc);
  const metadata = { namespace: 'bots', name: 'metricity' };
  const made = await customObjects(direct.kc).create('Kustomization', { metadata, spec: {} });
  const {
    apiVersion = '',
    metadata: { uid = '' },
  } = made;
  kept = { ...metadata, kind: 'Kustomization', uid, apiVersion, before: null, keeps: [] };
  return kept;
}
let kept: ReconcilerFact | undefined;
const pause = async (on: KubernetesActivities) => on.pauseReconciler({ world, reconciler: await reconciler() });
const unpause = async (on: KubernetesActivities) => on.resumeReconciler({ world, reconciler: await reconciler() });
const rest = async () => {
  await run(() => suspend(plain));
  await run(() => pause(plain));
};
const noRest = async () => {
  await run(() => unsuspend(plain));
  await run(() => unpause(plain));
};

/** An original volume that the upgrade has left behind: nothing but its PV. */
const oldVolume = { name: 'old-volume' };
const block: BlockVolumeFact = {
  id: 999,
  label: 'old',
  region: 'eu',
  sizeGb: 10,
  encryption: 'disabled',
  monthlyPrice: null,
};
let leftUid = '';
async function leaveVolume(): Promise<void> {
  const { volume, workload: at } = facts.database;
  await direct.create('PersistentVolume', {
    metadata: oldVolume,
    spec: {
      capacity: { storage: '10Gi' },
      accessModes: ['ReadWriteOnce'],
      persistentVolumeReclaimPolicy: 'Retain',
      csi: { driver: volume.driver, volumeHandle: '999-old' },
      claimRef: { apiVersion: 'v1', kind: 'PersistentVolumeClaim', namespace, name: 'gone', uid: 'gone' },
    },
  });
  const look = async () => {
    const { metadata, status } = await direct.get('PersistentVolume', oldVolume);
    leftUid = metadata?.uid ?? '';
    return status?.phase;
  };
  await expect.poll(look, { timeout: 10_000 }).toBe('Released');
  await direct.patch(at.kind, at, { metadata: { annotations: { [upgradeLabel]: world.upgradeId } } });
}
async function removeOriginal(): Promise<void> {
  const volume = { ...facts.database.volume, pv: oldVolume.name, pvUid: leftUid, handle: '999-old' };
  await kube.removeOriginal({ world, database: { ...facts.database, volume }, volume: block });
}
async function forgetVolume(): Promise<void> {
  const left = await direct.find('PersistentVolume', oldVolume);
  if (left !== undefined) await direct.remove('PersistentVolume', oldVolume, left.metadata?.uid ?? '');
  removed.length = 0;
}

/** One whose image is not there ends at once when it is removed. */
const makeCandidate = () =>
  direct.create('Pod', {
    metadata: { namespace, name: names.candidate(world), labels: { [upgradeLabel]: world.upgradeId } },
    spec: { containers: [{ name: 'postgres', image: 'missing:1' }] },
  });

async function state(): Promise<unknown> {
  const paused = kept && (await customObjects(direct.kc).get('Kustomization', kept.namespace, kept.name));
  return {
    objects: await objects(),
    reconciler: [paused?.spec, Object.keys(paused?.metadata.annotations ?? {})],
    left: (await direct.find('PersistentVolume', oldVolume)) !== undefined,
    // Removed again, or for the second time: the provider says each time that it is gone.
    removed: [...new Set(removed)],
  };
}

const ifDenied = (fault: Fault) => (fault === '401' || fault === '403' ? ['mended'] : []);

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
  {
    activity: 'journalCommit',
    run: () => kube.journalCommit({ world }),
    // When it first was, whichever attempt it was.
    told: async (at) => at === (await run(() => plain.readJournal({ world })))?.committedAt,
    ...withJournal,
  },
  { activity: 'closeJournal', run: () => kube.closeJournal({ world, outcome: 'upgraded' }), ...withJournal },
  {
    activity: 'journalOld',
    run: () => kube.journalOld({ world, old: oldWorldOf(facts.database) }),
    ...withJournal,
  },
  {
    activity: 'readJournal',
    before: async () => {
      await run(() => beginJournal(plain));
      await run(() => journalUndo(plain));
    },
    run: () => kube.readJournal({ world }),
    // A journal that was deleted is told of as such.
    orTold: (journal, _, fault) => fault === '404' && journal === null,
    after: forgetJournal,
  },
  { activity: 'journalBack', run: () => kube.journalBack({ world }), ...withJournal },
  { activity: 'setReclaimPolicy', before: () => run(() => unretain(plain)), run: () => retain(kube) },
  { activity: 'restoreReclaimPolicy', run: () => unretain(kube), after: () => run(() => retain(plain)) },
  { activity: 'createScratch', run: () => scratch(kube), after: () => run(() => noScratch(plain)) },
  {
    activity: 'removeScratch',
    // It waits for what it sees to be gone already as well.
    never: (call, fault) => toldGone(call, fault) || (fault === '404' && call.includes('persistentvolumeclaims')),
    before: () => run(() => scratch(plain)),
    run: () => noScratch(kube),
  },
  {
    activity: 'suspendCronJob',
    run: () => suspend(kube),
    // One may just have begun.
    told: ({ runningJobs }) => runningJobs >= 0,
    after: () => run(() => unsuspend(plain)),
  },
  { activity: 'restoreCronJob', before: () => run(() => suspend(plain)), run: () => unsuspend(kube) },
  {
    activity: 'resumeCronJob',
    before: () => run(() => suspend(plain)),
    run: () => kube.resumeCronJob({ world, service: service('blackbox') }),
  },
  {
    activity: 'observeService',
    // As the API server says that a container has no log yet.
    also: (call, fault) => (call.endsWith('/log') && fault === '422' ? ['mended'] : []),
    run: () => kube.observeService({ world, service: service('metricity'), since: world.startedAt }),
  },
  { activity: 'pauseReconciler', run: () => pause(kube), after: () => run(() => unpause(plain)) },
  { activity: 'resumeReconciler', before: () => run(() => pause(plain)), run: () => unpause(kube) },
  {
    activity: 'seeAtRest',
    before: rest,
    run: async () => {
      const reconcilers = [await reconciler()];
      await kube.seeAtRest({ world, atRest: { services: [service('blackbox')], reconcilers } });
    },
    after: noRest,
  },
  {
    activity: 'removeCandidate',
    never: toldGone,
    before: makeCandidate,
    run: () => kube.removeCandidate({ world }),
    after: () => run(() => plain.removeCandidate({ world })),
  },
  { activity: 'removeOriginal', never: toldGone, before: leaveVolume, run: removeOriginal, after: forgetVolume },
  {
    activity: 'compareOldWorld',
    // A service that may not be looked at is told of as such.
    also: (call, fault) => (/deployments\/metricity|cronjobs\//.test(call) ? ifDenied(fault) : []),
    orTold: (compared) => compared.some(({ equal }) => equal !== true),
    run: () => kube.compareOldWorld({ world, old: oldWorldOf(facts.database, { services: facts.services }) }),
  },
  {
    activity: 'inspectCluster',
    // Who else uses the database is told as far as it may be seen, and the server is asked again by inspectSource.
    also: (_, fault) => ifDenied(fault),
    // What is not there names nobody, as a Secret neither a user of the database nor its superuser, as whom inspectSource is
    // refused; what may not be seen is said.
    orTold: ({ facts: found, checks }, call, fault) =>
      fault === '404'
        ? call.includes('/secrets/') ||
          found?.kubernetesVersion === 'unknown' ||
          checks.some(({ id, status }) => id === 'kube.access' && status === 'SKIPPED')
        : checks.some(({ id, message }) => id === 'kube.unlisted-user' && message.includes(' may not be ')),
    before: reconciler,
    run: () => kube.inspectCluster({ spec }),
  },
];

export const stage = stageOf(state);
