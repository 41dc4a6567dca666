import { createHash } from 'node:crypto';
import { setCondition } from './controllers/pods.ts';
import { timestamp, type Kinds, type Pod, type Wire } from './objects.ts';
import type { V1ContainerState } from '@kubernetes/client-node';

type ContainerState = Wire<V1ContainerState>;
type PodStatus = NonNullable<Pod['status']>;

/** What the kubelet knows about a pod's container; the pod's status follows from it. */
export interface ContainerFacts {
  state: ContainerState;
  lastState: ContainerState;
  restarts: number;
  ready: boolean;
  started: boolean;
  ip: string | undefined;
  containerId: string | undefined;
}

/** A digest for an image reference: the sandbox pulls nothing, but the same reference must look the same every time. */
function imageDigest(image: string): string {
  const repository = image.replace(/@.*$/, '').replace(/:[^:/]+$/, '');
  return `docker-pullable://${repository}@sha256:${createHash('sha256').update(image).digest('hex')}`;
}

/** Phase and conditions as the kubelet derives them from its one container. */
export function describePod(pod: Pod, facts: ContainerFacts, node: Kinds['nodes'] | undefined): PodStatus {
  const container = pod.spec.containers[0];
  const phase = phaseOf(pod, facts);
  const running = facts.state.running !== undefined;
  const ready = facts.ready && running;
  const image = container?.image ?? '';
  const hostIP = node?.status?.addresses?.find((one) => one.type === 'InternalIP')?.address;
  const why = ready
    ? {}
    : phase === 'Succeeded'
      ? { reason: 'PodCompleted' }
      : { reason: 'ContainersNotReady', message: `containers with unready status: [${container?.name}]` };
  let conditions = pod.status?.conditions ?? [];
  for (const [type, truth] of [
    ['Initialized', true],
    ['PodReadyToStartContainers', running],
    ['ContainersReady', ready],
    ['Ready', ready],
  ] as const) {
    const detail = type === 'Ready' || type === 'ContainersReady' ? why : {};
    const condition = { type, status: truth ? 'True' : 'False', lastTransitionTime: timestamp(), ...detail };
    conditions = setCondition(conditions, condition);
  }
  return {
    ...pod.status,
    phase,
    conditions,
    ...(hostIP === undefined ? {} : { hostIP, hostIPs: [{ ip: hostIP }] }),
    ...(facts.ip === undefined ? {} : { podIP: facts.ip, podIPs: [{ ip: facts.ip }] }),
    startTime: pod.status?.startTime ?? timestamp(),
    qosClass: container?.resources?.requests === undefined ? 'BestEffort' : 'Burstable',
    containerStatuses: [
      {
        name: container?.name ?? '',
        image,
        imageID: running || facts.restarts > 0 ? imageDigest(image) : '',
        ready,
        started: facts.started && running,
        restartCount: facts.restarts,
        state: facts.state,
        lastState: facts.lastState,
        ...(facts.containerId === undefined ? {} : { containerID: `sandbox://${facts.containerId}` }),
      },
    ],
  };
}

function phaseOf(pod: Pod, { state, restarts }: ContainerFacts): 'Pending' | 'Running' | 'Succeeded' | 'Failed' {
  const ended = state.terminated;
  if (ended !== undefined) {
    const failed = ended.exitCode !== 0;
    const final = pod.spec.restartPolicy === 'Never' || (pod.spec.restartPolicy === 'OnFailure' && !failed);
    if (final || pod.metadata.deletionTimestamp !== undefined) return failed ? 'Failed' : 'Succeeded';
    return 'Running';
  }
  return state.running !== undefined || restarts > 0 ? 'Running' : 'Pending';
}
