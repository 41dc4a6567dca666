import type { KubeConfig } from '@kubernetes/client-node';
import type { DatabaseFact, PodRef, ServerRef, World } from '../../domain/facts.ts';
import { beating } from '../context.ts';
import { fail } from '../errors.ts';
import { createKube, type Kube } from '../kubernetes/client.ts';
import { checkCluster, getWorkload } from '../kubernetes/identity.ts';
import { assertSamePod } from '../kubernetes/pod.ts';
import { podsOf } from '../kubernetes/workloads.ts';
import type { PostgresActivities, PreflightActivities, UndoActivities } from '../types.ts';
import { checkCandidate } from './candidate.ts';
import { dump, fingerprint } from './dump.ts';
import { fenceSource, liftFence } from './fence.ts';
import { importDump } from './import.ts';
import { inspectSource } from './inspect.ts';
import { analyze, nextTransaction, observeDatabase, otherSessions, tryLogins } from './observe.ts';
import { carrySettings, saveSettings } from './settings.ts';

/** All that talks to a PostgreSQL server. `kubeConfig` is that of the worker; nothing is sent before the first call. */
export function createPostgresActivities({
  kubeConfig: kc,
}: {
  kubeConfig: KubeConfig;
}): PostgresActivities & Pick<PreflightActivities, 'inspectSource'> & Pick<UndoActivities, 'liftSourceFence'> {
  const kube = createKube(kc);

  /** Throws WrongWorld unless this is the planned cluster, PodLost when the pod is not the one that was recorded. */
  async function recorded(world: World, pod: PodRef): Promise<void> {
    await checkCluster(kube, world);
    await assertSamePod(kc, pod);
  }

  return beating({
    inspectSource: (arg) => inspectSource(kc, arg),
    checkCandidate: async (arg) => {
      await recorded(arg.world, arg.candidate.pod);
      return await checkCandidate(kc, arg);
    },
    fenceSource: async (arg) => {
      await recorded(arg.world, arg.source.pod);
      return await fenceSource(kc, arg);
    },
    dump: async (arg) => {
      await recorded(arg.world, arg.from.pod);
      return await dump(kc, arg);
    },
    fingerprint: async (arg) => {
      await recorded(arg.world, arg.server.pod);
      return await fingerprint(kc, arg.server, arg.name);
    },
    importDump: async (arg) => {
      await recorded(arg.world, arg.server.pod);
      return await importDump(kc, arg);
    },
    tryLogins: async (arg) => {
      await recorded(arg.world, arg.server.pod);
      return await tryLogins(kc, arg.server);
    },
    analyze: async (arg) => {
      await recorded(arg.world, arg.server.pod);
      return await analyze(kc, arg.server);
    },
    saveSettings: async (arg) => {
      await recorded(arg.world, arg.source.pod);
      return await saveSettings(kc, arg);
    },
    carrySettings: async (arg) => {
      if (arg.target.role === 'source')
        throw fail('Refused', 'settings are carried to the target, never to the source');
      await recorded(arg.world, arg.target.pod);
      return await carrySettings(kc, arg);
    },
    nextTransaction: ({ server }) => nextTransaction(kc, server),
    otherSessions: ({ server }) => otherSessions(kc, server),
    observeDatabase: (arg) => observeDatabase(kc, arg),
    liftSourceFence: async ({ world, database, hbaFile }) => {
      const source = await runningSource(kube, world, database);
      await liftFence(kc, source, hbaFile, world.upgradeId);
    },
  });
}

/**
 * The workload's pod of now: a source that was stopped and started again has another than the plan's. It need not be ready:
 * a probe that logs in is refused by the very fence that is to be lifted.
 */
async function runningSource(kube: Kube, world: World, database: DatabaseFact): Promise<ServerRef> {
  const workload = await getWorkload(kube, world, database.workload);
  const pod = (await podsOf(kube, workload)).find(
    ({ metadata, status }) =>
      metadata?.deletionTimestamp === undefined &&
      status?.containerStatuses?.some((one) => one.name === database.pod.container && one.state?.running !== undefined),
  );
  const { namespace, name } = database.workload;
  if (pod === undefined)
    throw fail('NotReady', `the source ${namespace}/${name} has no running pod whose fence could be lifted`);
  return {
    role: 'source',
    pod: {
      namespace,
      name: pod.metadata?.name ?? '',
      uid: pod.metadata?.uid ?? '',
      container: database.pod.container,
    },
    superuser: database.superuser,
    host: null,
    port: database.port,
  };
}
