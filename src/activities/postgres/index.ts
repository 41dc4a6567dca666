import type { KubeConfig } from '@kubernetes/client-node';
import type { DatabaseFact, PodRef, ServerRef, World } from '../../domain/facts.ts';
import { unknownWrites, type SourceSeen } from '../../domain/old-world.ts';
import { beating } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import { createKube, type Kube, type Resource } from '../kubernetes/client.ts';
import { execInPod } from '../kubernetes/exec.ts';
import { checkCluster, getWorkload } from '../kubernetes/identity.ts';
import { assertSamePod } from '../kubernetes/pod.ts';
import { annotations, marked, podRef, podsOf } from '../kubernetes/workloads.ts';
import type { PostgresActivities, PreflightActivities, UndoActivities } from '../types.ts';
import { checkCandidate } from './candidate.ts';
import { dump, fingerprint } from './dump.ts';
import { assertNothingPrepared, fenceSource, liftFence } from './fence.ts';
import { importDump } from './import.ts';
import { inspectSource } from './inspect.ts';
import { analyze, nextTransaction, observeDatabase, otherSessions, tryLogins } from './observe.ts';
import { sqlJson, sqlText } from './psql.ts';
import { carrySettings, saveSettings } from './settings.ts';
import { countWrites, lostWrites } from './writes.ts';

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
      const fence = await fenceSource(kc, arg);
      await assertNothingPrepared(kc, arg.source);
      return fence;
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
    seeSource: async ({ world, database }) => {
      const { pod, server } = await runningServer(kube, world, database, 'source');
      const seen = await sqlJson<Omit<SourceSeen, 'pod' | 'podIp' | 'takesLogins'>>(kc, server, sourceSql);
      const argv = ['pg_isready', '-q', '-h', '127.0.0.1', '-p', String(database.port)];
      const { code } = await execInPod(kc, server.pod, argv);
      return { ...seen, pod: server.pod, podIp: pod.status?.podIP ?? '', takesLogins: code === 0 };
    },
    countWrites: ({ server }) => countWrites(kc, server),
    lostWrites: async ({ world, database, opened, namespaces }) => {
      try {
        const { server } = await runningServer(kube, world, database, 'target');
        return await lostWrites(kube, server, opened, namespaces);
      } catch (error) {
        if (!isFailure(error, 'NotReady')) throw error;
        return unknownWrites(error.message, new Date().toISOString());
      }
    },
    closeTarget: async ({ world, database }) => {
      const { server } = await runningServer(kube, world, database, 'target');
      const hbaFile = (await sqlText(kc, server, 'SHOW hba_file')).trim();
      await fenceSource(kc, { world, source: server, hbaFile, candidateIp: '127.0.0.1', readOnlyLogins: [] });
    },
    nextTransaction: ({ server }) => nextTransaction(kc, server),
    otherSessions: ({ server }) => otherSessions(kc, server),
    observeDatabase: (arg) => observeDatabase(kc, arg),
    liftSourceFence: async ({ world, database, hbaFile }) => {
      const { server } = await runningServer(kube, world, database, 'source');
      await liftFence(kc, server, hbaFile, world.upgradeId);
    },
  });
}

const sourceSql = `
SELECT json_build_object(
  'versionNum', current_setting('server_version_num')::int,
  'systemIdentifier', (SELECT system_identifier::text FROM pg_control_system()),
  'nextTransaction', pg_current_snapshot()::text,
  'hba', encode(sha256(pg_read_binary_file(current_setting('hba_file'))), 'hex'))`;

/**
 * The workload's pod of now: a server that was stopped and started again has another than the plan's. It need not be ready:
 * a probe that logs in is refused by the very fence that is to be lifted. Throws NotReady when there is none.
 */
async function runningServer(
  kube: Kube,
  world: World,
  database: DatabaseFact,
  role: 'source' | 'target',
): Promise<{ pod: Resource<'Pod'>; server: ServerRef }> {
  const workload = await getWorkload(kube, world, database.workload);
  const { container } = database.pod;
  const { namespace, name } = database.workload;
  // On the way back the same workload is the source again, which must not be taken for the target.
  if (role === 'target' && marked(workload, world, annotations.stage) === undefined) {
    throw fail('NotReady', `${namespace}/${name} does not run the target any more`);
  }
  const pod = (await podsOf(kube, workload)).find(
    ({ metadata, status }) =>
      metadata?.deletionTimestamp === undefined &&
      status?.containerStatuses?.some((one) => one.name === container && one.state?.running !== undefined),
  );
  if (pod === undefined) throw fail('NotReady', `the ${role} ${namespace}/${name} has no running pod`);
  const { superuser, port } = database;
  return { pod, server: { role, pod: podRef(pod, container), superuser, host: null, port } };
}
