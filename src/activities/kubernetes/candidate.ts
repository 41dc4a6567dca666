import type { PodRef, World } from '../../domain/facts.ts';
import { majorOf, versionText } from '../../domain/versions.ts';
import { redact } from '../../domain/redact.ts';
import { poll } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import type { ClusterActivities, UndoActivities } from '../types.ts';
import type { Kube, Resource } from './client.ts';
import { execInPod, runInPod } from './exec.ts';
import { checkCluster, getWorkload, isOurs, names, strange } from './identity.ts';
import { awaitServer, isDataGone } from './server.ts';
import { namedMajor, planTarget } from './target.ts';
import { candidatePod, majorAnnotation } from './template.ts';
import { podRef } from './workloads.ts';

const readyMs = 10 * 60_000;
/** A registry may fail once; an image that is not there stays away. */
const pullPatienceMs = 20_000;
const schedulePatienceMs = 120_000;

export function createCandidateActivities(
  kube: Kube,
): Pick<ClusterActivities, 'createCandidate'> & Pick<UndoActivities, 'removeCandidate'> {
  async function remove(world: World, pod: Resource<'Pod'>): Promise<void> {
    const at = { namespace: world.namespace, name: names.candidate(world) };
    await kube.remove('Pod', at, pod.metadata?.uid ?? '', { graceSeconds: 5 });
    const gone = await poll(
      async () => ((await kube.find('Pod', at))?.metadata?.uid === pod.metadata?.uid ? undefined : true),
      { timeoutMs: 60_000 },
    );
    if (gone === undefined)
      throw fail('NotStopped', `pod ${at.namespace}/${at.name} is being deleted, but not gone yet`);
  }

  return {
    async createCandidate({ world, spec, database, source, generation }) {
      await getWorkload(kube, world, database.workload);
      const named = namedMajor(spec);
      const plan = await planTarget(kube, spec, database, source, named);
      if ('problem' in plan) throw fail('PreflightRefused', `the target cannot work: ${plan.problem}`);
      const at = { namespace: world.namespace, name: names.candidate(world) };
      const nodeName = (await kube.find('Pod', database.pod))?.spec?.nodeName ?? null;
      const wanted = candidatePod(plan.spec, world, database, source, { major: named, generation, nodeName });
      let looked = false;
      /** Nothing but this makes another when it is deleted or evicted while it starts. */
      const ensure = async (): Promise<Resource<'Pod'> | undefined> => {
        const existing = await kube.find('Pod', at);
        if (existing !== undefined) {
          if (!isOurs(existing, world)) throw strange('Pod', at, 'exists, but is not of this upgrade');
          const same = existing.metadata?.annotations?.['pgleap.dev/generation'] === String(generation);
          const over = existing.status?.phase === 'Failed' || existing.status?.phase === 'Succeeded';
          const stays = same && !over && existing.metadata?.deletionTimestamp === undefined;
          if (stays && (looked || !(await isEmptied(existing, database.pod.container)))) {
            looked = true;
            return existing;
          }
          await remove(world, existing);
        }
        try {
          await kube.create('Pod', wanted);
        } catch (error) {
          if (!isFailure(error, 'Conflict')) throw error;
        }
        return undefined;
      };
      const since = performance.now();
      const { pod, server, answer } = await awaitServer(
        kube,
        'candidate',
        { container: database.pod.container, superuser: database.superuser, port: database.port },
        {
          find: ensure,
          trouble: (found, { reason, text }) => refuse(found, reason, text, performance.now() - since),
          timeoutMs: readyMs,
        },
      );
      const major = majorOf(answer.versionNum);
      if (named !== null && major !== named) {
        throw fail(
          'PreflightRefused',
          `image ${spec.target.image} holds PostgreSQL ${versionText(answer.versionNum)}, but the spec says major ${named}: correct target.image or target.major`,
        );
      }
      if (major <= source.major) {
        throw fail(
          'PreflightRefused',
          `image ${spec.target.image} holds PostgreSQL ${major}, which is not above the source's ${source.major}`,
        );
      }
      const zstd = await furnish(server.pod, major, generation);
      return {
        pod: server.pod,
        podIp: pod.status?.podIP ?? '',
        versionNum: answer.versionNum,
        imageId: pod.status?.containerStatuses?.[0]?.imageID ?? '',
        compression: zstd ? 'zstd' : 'gzip',
      };
    },

    async removeCandidate({ world }) {
      await checkCluster(kube, world);
      const at = { namespace: world.namespace, name: names.candidate(world) };
      const pod = await kube.find('Pod', at);
      if (pod === undefined) return;
      if (!isOurs(pod, world)) throw strange('Pod', at, 'is not of this upgrade');
      await remove(world, pod);
    },
  };

  /** Whether its scratch volume was emptied: the server that goes on without its data would be waited for. */
  async function isEmptied(pod: Resource<'Pod'>, container: string): Promise<boolean> {
    const status = pod.status?.containerStatuses?.find((one) => one.name === container);
    if (status?.state?.running === undefined) return false;
    // What goes wrong here, as with a pod that is just being deleted, is seen by the wait for its server.
    return await isDataGone(kube.kc, podRef(pod, container)).catch(() => false);
  }

  /**
   * Gets a server that answers ready for the work; resolves with whether it has zstd. Throws Conflict when it was deleted
   * just then: the next attempt makes another.
   */
  async function furnish(pod: PodRef, major: number, generation: number | string): Promise<boolean> {
    try {
      // The target's layout depends on it, and a tag such as `latest` does not tell.
      await kube.patch('Pod', pod, { metadata: { uid: pod.uid, annotations: { [majorAnnotation]: String(major) } } });
      // Servers of earlier generations only take room. Their dumps lie elsewhere and stay.
      const sweep = 'for old in /pgleap/pgdata-*; do [ "$old" = "$1" ] || rm -rf -- "$old"; done';
      await runInPod(kube.kc, pod, ['sh', '-c', sweep, 'sh', `/pgleap/pgdata-${generation}`], { timeoutMs: 120_000 });
      return (await execInPod(kube.kc, pod, ['sh', '-c', 'command -v zstd'])).code === 0;
    } catch (error) {
      if (!isFailure(error, 'NotFound', 'PodLost')) throw error;
      throw fail('Conflict', `pod ${pod.namespace}/${pod.name} was deleted just when it was ready: another is made`);
    }
  }

  /** Ends the wait for a candidate that will not come up, with what to do about it. */
  async function refuse(pod: Resource<'Pod'>, reason: string, text: string, waitedMs: number): Promise<void> {
    const image = pod.spec?.containers[0]?.image ?? '';
    if (
      reason === 'InvalidImageName' ||
      (/^(ErrImage|ImagePullBackOff|ErrImageNeverPull)/.test(reason) && waitedMs > pullPatienceMs)
    ) {
      throw fail('PreflightRefused', `the node cannot pull ${image} (${text}): check target.image and the pull secret`);
    }
    if (reason === 'CreateContainerConfigError' && waitedMs > pullPatienceMs) {
      throw fail('PreflightRefused', `the candidate refers to something that is missing (${text})`);
    }
    if (reason === 'Unschedulable' && waitedMs > schedulePatienceMs) {
      throw fail(
        'PreflightRefused',
        `no node has room for the candidate (${text}): it needs what the database itself requests`,
      );
    }
    const restarts = pod.status?.containerStatuses?.[0]?.restartCount ?? 0;
    // One that was furnished did start: it was killed since, and is waited for.
    const started = pod.metadata?.annotations?.[majorAnnotation] !== undefined;
    if (reason === 'CrashLoopBackOff' && restarts >= 2 && !started) {
      const at = { namespace: pod.metadata?.namespace ?? '', name: pod.metadata?.name ?? '' };
      const log = await kube.log(at, { container: pod.spec?.containers[0]?.name ?? '', tailLines: 15, previous: true });
      throw fail(
        'PreflightRefused',
        `${image} does not start with the target's template. Its last words:\n${redact((log ?? text).trim())}`,
      );
    }
  }
}
