import type { DatabaseFact, ServerRef, World } from '../../domain/facts.ts';
import { redact } from '../../domain/redact.ts';
import { majorOf } from '../../domain/versions.ts';
import { poll, requireLeave } from '../context.ts';
import { fail } from '../errors.ts';
import { sqlText } from '../postgres/psql.ts';
import { syncData } from '../postgres/sync.ts';
import type { ClusterActivities, UndoActivities } from '../types.ts';
import type { Kube, Resource } from './client.ts';
import { execInPod, runInPod } from './exec.ts';
import { checkCluster, getRecorded, getWorkload, isOurs, names, strange } from './identity.ts';
import { holdClaim } from './old-volume.ts';
import { requireAtRest } from './rest.ts';
import { awaitServer, type Answer } from './server.ts';
import { namedMajor, planTarget } from './target.ts';
import {
  containerOf,
  eraserPod,
  fencedSpec,
  keepingClaims,
  majorAnnotation,
  whenScaledOf,
  workSubPath,
  type WorkloadSpec,
} from './template.ts';
import { awaitDetached } from './volumes.ts';
import {
  annotations,
  asSeen,
  awaitNoPods,
  isReady,
  marked,
  podsOf,
  scale,
  stopAsSeen,
  unmarked,
  type Workload,
} from './workloads.ts';

const serverMs = 8 * 60_000;

export function createDatabaseActivities(
  kube: Kube,
): Pick<ClusterActivities, 'haltDatabase' | 'deployTarget' | 'emptyTarget' | 'openTarget' | 'sweepTarget'> &
  Pick<UndoActivities, 'restartSource' | 'restoreTemplate'> {
  /** Writes spec and marks in one write under the resourceVersion that was read: Conflict when somebody was faster. */
  async function rewrite(
    database: DatabaseFact,
    workload: Workload,
    spec: WorkloadSpec,
    changes: Record<string, string | null>,
  ): Promise<Workload> {
    const kept = Object.entries({ ...workload.metadata?.annotations, ...changes }).filter(
      (entry): entry is [string, string] => entry[1] !== null,
    );
    const { status: _status, ...rest } = workload;
    const metadata = { ...workload.metadata, annotations: Object.fromEntries(kept) };
    return await kube.replace(database.workload.kind, { ...rest, metadata, spec: keepingClaims(spec) });
  }

  async function server(
    role: 'source' | 'target',
    world: World,
    database: DatabaseFact,
    options: { ready?: boolean; accept?: (answer: Answer) => boolean },
  ): Promise<{ server: ServerRef; answer: Answer }> {
    const workload = await getWorkload(kube, world, database.workload);
    const { container } = database.pod;
    return await awaitServer(
      kube,
      role,
      { container, superuser: database.superuser, port: database.port },
      {
        async find() {
          const pods = await podsOf(kube, workload);
          return pods.find((pod) => options.ready !== true || isReady(pod));
        },
        async trouble(pod, { reason, text }) {
          const status = pod.status?.containerStatuses?.find((one) => one.name === container);
          if (reason !== 'CrashLoopBackOff' || (status?.restartCount ?? 0) < 3) return;
          const at = { namespace: pod.metadata?.namespace ?? '', name: pod.metadata?.name ?? '' };
          const log = (await kube.log(at, { container, tailLines: 15, previous: true })) ?? text;
          throw fail('NotReady', `pod ${at.namespace}/${at.name} keeps ending. Its last words:\n${redact(log.trim())}`);
        },
        ...(options.accept === undefined ? {} : { accept: options.accept }),
        timeoutMs: serverMs,
      },
    );
  }

  /** The target while nobody else can log in, with the time it started. */
  async function fencedTarget(world: World, database: DatabaseFact): Promise<{ server: ServerRef; answer: Answer }> {
    const found = await server('target', world, database, { accept: ({ listenAddresses }) => listenAddresses === '' });
    return { server: { ...found.server, began: found.answer.began }, answer: found.answer };
  }

  /** The new claim is bound, and not to the original volume: no server of another major ever opens that. */
  async function requireNewClaim(database: DatabaseFact): Promise<void> {
    const at = { namespace: database.workload.namespace, name: database.claim.name };
    const claim = await kube.get('PersistentVolumeClaim', at);
    if (claim.metadata?.uid === database.claim.uid || claim.spec?.volumeName === database.volume.pv) {
      throw strange('PersistentVolumeClaim', at, 'is still on the original volume');
    }
  }

  async function candidateMajor(world: World): Promise<number> {
    const at = { namespace: world.namespace, name: names.candidate(world) };
    const pod = await kube.get('Pod', at);
    const major = Number(pod.metadata?.annotations?.[majorAnnotation]);
    if (!isOurs(pod, world) || !Number.isInteger(major)) throw strange('Pod', at, 'does not say the target’s major');
    return major;
  }

  async function stop(database: DatabaseFact, look: () => Promise<Workload>): Promise<void> {
    await stopAsSeen(kube, database.workload, look, () => ({ spec: claims(database, 'Retain') }));
  }

  async function fencedWorkload(world: World, database: DatabaseFact): Promise<Workload> {
    const workload = await getWorkload(kube, world, database.workload);
    if (marked(workload, world, annotations.stage) === 'fenced') return workload;
    throw strange(database.workload.kind, database.workload, 'is not fenced: its data is not pgleap’s to empty');
  }

  async function startFenced(world: World, database: DatabaseFact, marks: Record<string, string> = {}): Promise<void> {
    await asSeen(
      () => fencedWorkload(world, database),
      ({ metadata }) => scale(kube, database.workload, 1, marks, {}, metadata?.resourceVersion),
    );
  }

  return {
    async haltDatabase({ world, database, atRest }) {
      const look = async () => {
        const workload = await getWorkload(kube, world, database.workload);
        await requireAtRest(kube, world, atRest);
        requireImage(database, workload);
        // After a way back it looks as it does here. What goes back from now on changes what was read.
        await requireLeave(true);
        return workload;
      };
      await stopAsSeen(kube, database.workload, look, (workload) => {
        if (workload.spec !== undefined && whenScaledOf(workload.spec) !== database.whenScaled) {
          throw strange(database.workload.kind, database.workload, 'has another whenScaled for its claims');
        }
        const marks = {
          // What an earlier upgrade left must not pass for this one's.
          ...(marked(workload, world, annotations.upgrade) === undefined ? unmarked : {}),
          [annotations.upgrade]: world.upgradeId,
          [annotations.before]: `replicas=${workload.spec?.replicas ?? 1}`,
          [annotations.stoppedAt]: new Date().toISOString(),
        };
        return { marks, spec: claims(database, 'Retain') };
      });
      await awaitDetached(kube, database.volume.pv);
    },

    async deployTarget({ world, spec, database, source }) {
      const workload = await getWorkload(kube, world, database.workload);
      await requireNewClaim(database);
      const stage = marked(workload, world, annotations.stage);
      if (stage === undefined) {
        requireImage(database, workload);
        const major = namedMajor(spec) ?? (await candidateMajor(world));
        const plan = await planTarget(kube, spec, database, source, major);
        if ('problem' in plan) throw fail('PreflightRefused', `the target cannot work: ${plan.problem}`);
        const stillPlain = async () => {
          const now = await getWorkload(kube, world, database.workload);
          requireImage(database, now);
          // The same after a way back, when its claim is that of the original again.
          await requireLeave(true);
          await requireNewClaim(database);
          return now;
        };
        await stop(database, stillPlain);
        const fresh = await stillPlain();
        const fenced = fencedSpec(plan.spec, world, database, source, major);
        await rewrite(
          database,
          fresh,
          { ...fenced, replicas: 1 },
          {
            [annotations.upgrade]: world.upgradeId,
            [annotations.originalSpec]: JSON.stringify(fresh.spec),
            [annotations.targetSpec]: JSON.stringify(plan.spec),
            [annotations.pgdata]: plan.pgdata ?? '',
            [annotations.stage]: 'fenced',
          },
        );
      } else if (stage !== 'fenced') {
        throw strange(database.workload.kind, database.workload, 'is open already: it cannot be filled again');
      } else if ((workload.spec?.replicas ?? 1) === 0) {
        await startFenced(world, database);
      }
      const target = await fencedTarget(world, database);
      if (majorOf(target.answer.versionNum) <= source.major) {
        throw strange(
          database.workload.kind,
          database.workload,
          `runs PostgreSQL ${majorOf(target.answer.versionNum)}, which is no upgrade`,
        );
      }
      return target.server;
    },

    async emptyTarget({ world, database, claim, target }) {
      const workload = await fencedWorkload(world, database);
      const at = { namespace: database.workload.namespace, name: database.claim.name };
      const bound = await getRecorded(kube, 'PersistentVolumeClaim', at, claim.claimUid);
      await requireNewClaim(database);
      if (bound.spec?.volumeName !== claim.pv) throw strange('PersistentVolumeClaim', at, `is not on ${claim.pv}`);
      if (marked(workload, world, annotations.emptied) !== target.pod.uid) {
        await stop(database, () => fencedWorkload(world, database));
        await erase(world, database);
        await startFenced(world, database, { [annotations.emptied]: target.pod.uid });
      } else if ((workload.spec?.replicas ?? 1) === 0) {
        await startFenced(world, database);
      }
      return (await fencedTarget(world, database)).server;
    },

    async sweepTarget({ world, target }) {
      await checkCluster(kube, world);
      // Not the folder itself: it is mounted.
      await runInPod(kube.kc, target.pod, ['find', '/pgleap', '-mindepth', '1', '-delete'], {
        says: 'emptying /pgleap',
        timeoutMs: 120_000,
      });
      // All was loaded with fsync off. Once services write there is no way back, so it must survive a crash before that.
      await sqlText(kube.kc, target, 'CHECKPOINT', { timeoutMs: 10 * 60_000 });
      await syncData(kube.kc, target);
    },

    async openTarget({ world, database }) {
      const workload = await getWorkload(kube, world, database.workload);
      let stage = marked(workload, world, annotations.stage);
      const lasting = marked(workload, world, annotations.targetSpec);
      if (stage === undefined && imageOf(database, workload) !== database.image) {
        // Removing the original took the marks off; what came after that failed.
        await requireNewClaim(database);
        stage = 'open';
      }
      if (stage === 'fenced') {
        await requireNewClaim(database);
        if (lasting === undefined)
          throw strange(database.workload.kind, database.workload, 'has lost its lasting template');
        const spec: WorkloadSpec = JSON.parse(lasting);
        // To 0 first, whatever the strategy: two servers must never open the same data.
        await rewrite(database, workload, { ...spec, replicas: 0 }, { [annotations.stage]: 'opening' });
      } else if (stage !== 'opening' && stage !== 'open') {
        throw strange(database.workload.kind, database.workload, 'does not run the target of this upgrade');
      }
      if (stage !== 'open') {
        await awaitNoPods(kube, workload);
        const opening = async () => {
          const now = await getWorkload(kube, world, database.workload);
          const at = marked(now, world, annotations.stage);
          if (at === 'opening' || at === 'open') return now;
          throw strange(database.workload.kind, database.workload, 'does not run the target of this upgrade any more');
        };
        const marks = {
          [annotations.stage]: 'open',
          [annotations.targetSpec]: null,
          [annotations.emptied]: null,
        };
        await asSeen(opening, async (now) => {
          if (marked(now, world, annotations.stage) === 'open') return;
          const keep = claims(database, database.whenScaled);
          await scale(kube, database.workload, 1, marks, keep, now.metadata?.resourceVersion);
        });
      }
      const target = await server('target', world, database, {
        ready: true,
        accept: (answer) => answer.listenAddresses !== '',
      });
      const { pod } = target.server;
      const login = await poll(
        async () => {
          const argv = ['pg_isready', '-q', '-h', '127.0.0.1', '-p', String(database.port)];
          return (await execInPod(kube.kc, pod, argv)).code === 0 ? true : undefined;
        },
        { timeoutMs: 60_000 },
      );
      if (login === undefined)
        throw fail('NotReady', `the target in ${pod.namespace}/${pod.name} takes no TCP connections`);
      // What the shutdown of the fenced server wrote, which had fsync off too.
      await syncData(kube.kc, target.server);
      if (database.subPath === null) {
        const folder = `${database.mountPath}/${workSubPath(world)}`;
        await execInPod(kube.kc, pod, ['rmdir', '--', folder]);
      }
      return target.server;
    },

    async restartSource({ world, database }) {
      const look = async () => {
        const workload = await getWorkload(kube, world, database.workload);
        requireImage(database, workload);
        return workload;
      };
      await look();
      const at = { namespace: database.workload.namespace, name: database.claim.name };
      const claim = await kube.get('PersistentVolumeClaim', at);
      if (![database.volume.pv, names.original(world), names.clone(world)].includes(claim.spec?.volumeName ?? '')) {
        throw strange(
          'PersistentVolumeClaim',
          at,
          `is on ${claim.spec?.volumeName}, not on the original ${database.volume.pv}`,
        );
      }
      if (claim.metadata?.deletionTimestamp !== undefined)
        throw strange('PersistentVolumeClaim', at, 'is being deleted');
      await holdClaim(kube, database, claim);
      await asSeen(look, async ({ metadata, spec }) => {
        const ours = Object.values(annotations).some((key) => metadata?.annotations?.[key] !== undefined);
        if ((spec?.replicas ?? 1) !== 0 && !ours) return;
        const keep = claims(database, database.whenScaled);
        await scale(kube, database.workload, 1, unmarked, keep, metadata?.resourceVersion);
      });
      await server('source', world, database, {});
    },

    async restoreTemplate({ world, database }) {
      const workload = await getWorkload(kube, world, database.workload);
      const original = marked(workload, world, annotations.originalSpec);
      if (original === undefined) {
        // Never changed, or put back by an earlier attempt.
        requireImage(database, workload);
        return;
      }
      const stillChanged = async () => {
        const now = await getWorkload(kube, world, database.workload);
        if (marked(now, world, annotations.originalSpec) !== undefined) return now;
        throw fail('Conflict', `${database.workload.kind} ${database.workload.name} was put back by another attempt`);
      };
      await stop(database, stillChanged);
      const spec: WorkloadSpec = JSON.parse(original);
      const fresh = await stillChanged();
      await rewrite(
        database,
        fresh,
        { ...spec, replicas: 0 },
        {
          [annotations.originalSpec]: null,
          [annotations.targetSpec]: null,
          [annotations.pgdata]: null,
          [annotations.stage]: null,
          [annotations.emptied]: null,
        },
      );
    },
  };

  /** Runs a pod that empties the target's PGDATA, and waits until it has. The workload is at 0. */
  async function erase(world: World, database: DatabaseFact): Promise<void> {
    const at = { namespace: world.namespace, name: names.eraser(world) };
    const remove = async (pod: Resource<'Pod'>) => {
      if (!isOurs(pod, world)) throw strange('Pod', at, 'is not of this upgrade');
      await kube.remove('Pod', at, pod.metadata?.uid ?? '', { graceSeconds: 5 });
      await poll(async () => ((await kube.find('Pod', at)) === undefined ? true : undefined), { timeoutMs: 60_000 });
    };
    const left = await kube.find('Pod', at);
    if (left !== undefined) await remove(left);
    // As late as can be: a worker that was frozen until now finds a target that another one has filled and opened since.
    const workload = await fencedWorkload(world, database);
    const pgdata = marked(workload, world, annotations.pgdata);
    if (workload.spec === undefined || pgdata === undefined) {
      throw strange(database.workload.kind, database.workload, 'does not say where its data lies');
    }
    if (workload.spec.replicas !== 0) {
      throw fail(
        'Conflict',
        `${database.workload.kind} ${database.workload.name} was started again by another attempt`,
      );
    }
    await kube.create('Pod', eraserPod(workload.spec, world, database, pgdata));
    const ended = await poll(
      async () => {
        const pod = await kube.get('Pod', at);
        return pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed' ? pod : undefined;
      },
      { timeoutMs: 5 * 60_000 },
    );
    if (ended?.status?.phase !== 'Succeeded') {
      const log = (await kube.log(at, { container: 'eraser', tailLines: 5 }).catch(() => undefined)) ?? '';
      throw fail('NotReady', `pod ${at.namespace}/${at.name} could not empty ${pgdata}: ${redact(log.trim())}`);
    }
    await remove(ended);
  }
}

/**
 * What a StatefulSet that deletes its claims when it is scaled down must be told in the same write as its count: keep them
 * while it is at 0, and as it was from the write on that starts its pod again.
 */
function claims(database: DatabaseFact, whenScaled: DatabaseFact['whenScaled']): object {
  return database.whenScaled === 'Delete' ? { persistentVolumeClaimRetentionPolicy: { whenScaled } } : {};
}

/** Throws unless the workload still has the image of the plan: then its template is the source's. */
function requireImage(database: DatabaseFact, workload: Workload): void {
  const image = imageOf(database, workload);
  if (image !== database.image) {
    throw strange(database.workload.kind, database.workload, `has the image ${image}, planned was ${database.image}`);
  }
}

function imageOf(database: DatabaseFact, { spec }: Workload): string | undefined {
  return spec === undefined ? undefined : containerOf(spec, database.pod.container)?.image;
}
