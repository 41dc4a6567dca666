/** docs/rollback.md, “Without Temporal”: what people do by hand is what pgleap would do, and in its order. */
import { execFileSync, spawnSync } from 'node:child_process';
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { listJournals, undosOf } from '../../src/activities/kubernetes/journal.ts';
import type { UndoActivities } from '../../src/activities/types.ts';
import type { World } from '../../src/domain/facts.ts';
import { undoOrder, type Undo } from '../../src/domain/undo.ts';
import { startWorld, type World as Cluster } from '../sandbox/kube-parts.ts';
import { fakeFacts } from '../workflows/fake-facts.ts';

const page = readFileSync(new URL('../../docs/rollback.md', import.meta.url), 'utf8');
const section = page.slice(page.indexOf('\n## Without Temporal\n'));

/** The compiler sees to it that these are all. */
const undone: Record<keyof UndoActivities, true> = {
  restoreReclaimPolicy: true,
  removeCandidate: true,
  removeScratch: true,
  releaseLease: true,
  restoreRoute: true,
  restoreService: true,
  restoreCronJob: true,
  resumeReconciler: true,
  liftSourceFence: true,
  restartSource: true,
  rebindOriginal: true,
  restoreTemplate: true,
  removeClone: true,
};

test('it says of each undo how it is done by hand', () => {
  const rows = [...section.matchAll(/^\| `(\w+)` +\| (.+?) +\|$/gm)];
  expect(rows.map(([, activity = '']) => activity).toSorted()).toEqual(Object.keys(undone).toSorted());
});

// Not on every machine, and nothing else of pgleap needs it.
const hasJq = spawnSync('jq', ['--version']).status === 0;

describe.skipIf(!hasJq)('its commands, by jq', () => {
  let cluster: Cluster;
  let kube: Kube;
  let activities: KubernetesActivities;

  beforeAll(async () => {
    cluster = await startWorld();
    cluster.cluster.apply([{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'databases' } }]);
    kube = createKube(cluster.config);
    activities = createKubernetesActivities({
      kubeConfig: cluster.config,
      removeVolume: async () => undefined,
      provider: { hasVolume: async () => true, findClone: async () => null },
    });
  });
  afterAll(() => cluster?.close());

  test('read what the journal says, and list what is left to be undone in the order of undoing', async () => {
    const namespace = 'databases';
    const { metadata } = await kube.get('Namespace', { name: 'kube-system' });
    const startedAt = new Date().toISOString();
    const world: World = { clusterUid: metadata?.uid ?? '', upgradeId: 'u1a2b3c4d', startedAt, namespace };
    const { database, services } = fakeFacts(namespace);
    await activities.beginJournal({
      world,
      workflowId: 'pgleap/databases/postgres',
      planHash: 'p',
      summary: '16 to 18',
    });
    const undos: Undo[] = [
      { activity: 'releaseLease', last: true, args: { world, workload: database.workload } },
      { activity: 'removeCandidate', last: true, args: { world } },
      { activity: 'restoreReclaimPolicy', last: false, args: { world, volume: database.volume } },
      ...services.map((service) => ({ activity: 'restoreService', last: false, args: { world, service } }) as const),
      { activity: 'liftSourceFence', last: false, args: { world, database, hbaFile: '/hba' } },
      { activity: 'restartSource', last: false, args: { world, database } },
      { activity: 'restoreTemplate', last: false, args: { world, database } },
    ].map((undo, index) => ({ ...undo, id: `a/${index}`, phase: 'deploy', says: `step ${index}` }) as Undo);
    for (const undo of undos) await activities.journalUndo({ world, undos: [undo] });
    await activities.journalUndone({ world, undoId: undos.at(-1)?.id ?? '' });

    const map = await kube.get('ConfigMap', { namespace, name: `pgleap-${world.upgradeId}-journal` });
    const filters = [...section.matchAll(/\|\s*jq (-r )?'([^']+)'/g)].map(([, raw, filter]) => ({ raw, filter }));
    const jq = (filter: string, ...options: string[]) =>
      execFileSync('jq', [...options, filter], { input: JSON.stringify(map), encoding: 'utf8' });
    const [head, list] = filters.map(
      ({ raw, filter = '' }) =>
        () =>
          jq(filter, ...(raw ? ['-r'] : [])),
    );
    expect(JSON.parse(head?.() ?? '')).toMatchObject({ committedAt: null, workflowId: 'pgleap/databases/postgres' });

    const [journal] = await listJournals(kube, namespace);
    if (journal === undefined) throw new Error('no journal');
    const wanted = undoOrder(undosOf(journal)).flat();
    expect(wanted).toHaveLength(undos.length - 1);
    expect(list?.().trim().split('\n')).toEqual(wanted.map(({ activity, says }) => `${activity}: ${says}`));
  });
});
