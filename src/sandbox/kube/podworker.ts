import { once } from 'node:events';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { ImageNotFound, type RunningContainer } from '../runtime/types.ts';
import { isAttached, volumesOf } from './controllers/attach.ts';
import { ConfigProblem, resolveCommand } from './env.ts';
import type { KubeletOptions, PodLog } from './kubelet.ts';
import { openLog, type LogFile } from './logs.ts';
import { prepareMounts, refreshVolumes } from './mounts.ts';
import { timestamp, type AnyObject, type Container, type Pod } from './objects.ts';
import { describePod, type ContainerFacts } from './podstatus.ts';
import { runProbes } from './probes.ts';

export interface PodWorker {
  container(): RunningContainer | undefined;
  log(previous: boolean): PodLog | undefined;
  /** Unique names of the volumes it may still have mounted. */
  volumes(): string[];
  /** Ends the pod; may be called again with less time. */
  terminate(graceMs: number): void;
  /** Brings volumes made of this ConfigMap or Secret up to date, which a real kubelet does within a minute. */
  refresh(source: AnyObject): void;
  /** Settles when the container is gone for good. Never rejects. */
  done: Promise<void>;
}

const restartDelay = { firstMs: 1000, maxMs: 60_000, forgottenAfterMs: 600_000 };
const retryDelay = { firstMs: 500, maxMs: 15_000 };

/** Brings one pod up, keeps it as its restart policy says, and takes it down. */
export function startPod(
  options: KubeletOptions,
  { metadata: { namespace = '', name, uid } }: Pod,
  podDir: string,
  volumeNames: string[],
  onChange: () => void,
): PodWorker {
  const { store, runtime, recorder, volumes, nodeName } = options;
  const ending = new AbortController();
  const facts: ContainerFacts = {
    state: { waiting: { reason: 'ContainerCreating' } },
    lastState: {},
    restarts: 0,
    ready: false,
    started: false,
    ip: undefined,
    containerId: undefined,
  };
  let running: RunningContainer | undefined;
  let graceMs = 0;
  let mounted = true;
  const logs: LogFile[] = [];

  function current(): Pod | undefined {
    const pod = store.get('pods', namespace, name);
    return pod?.metadata.uid === uid ? pod : undefined;
  }

  function publish(): void {
    const pod = current();
    if (pod === undefined) return;
    const node = store.get('nodes', '', nodeName);
    store.mutate('pods', namespace, name, (draft) => {
      draft.status = describePod(pod, facts, node);
    });
  }

  function say(type: 'Normal' | 'Warning', reason: string, message: string): void {
    const pod = current();
    if (pod !== undefined) recorder('kubelet', pod, type, reason, message);
  }

  function wait(reason: string, message?: string): void {
    facts.state = { waiting: message === undefined ? { reason } : { reason, message } };
    facts.ready = false;
    publish();
  }

  async function rest(ms: number): Promise<void> {
    await sleep(ms, undefined, { signal: ending.signal }).catch(() => undefined);
  }

  function allAttached(): boolean {
    const pod = current();
    return pod === undefined || volumesOf(store, pod).every((volume) => isAttached(store, volume));
  }

  /** Resolves when every volume is attached, or the pod ends. */
  async function attached(): Promise<void> {
    if (allAttached() || ending.signal.aborted) return;
    await new Promise<void>((resolve) => {
      const stop = store.subscribe((change) => {
        if (change.resource === 'volumeattachments' && allAttached()) go();
      });
      const go = () => {
        stop();
        ending.signal.removeEventListener('abort', go);
        resolve();
      };
      ending.signal.addEventListener('abort', go);
    });
  }

  /** Starts the container, again and again until it runs or the pod ends. */
  async function start(container: Container): Promise<RunningContainer | undefined> {
    for (let delay = retryDelay.firstMs; !ending.signal.aborted; delay = Math.min(delay * 2, retryDelay.maxMs)) {
      const pod = current();
      if (pod === undefined) return undefined;
      try {
        const { command, args, env } = resolveCommand(store, pod, container, facts.ip ?? '');
        const mounts = await prepareMounts({ store, volumes, podDir }, pod, container, env);
        const log = openLog(join(podDir, `${facts.restarts}.log`));
        const id = `${uid}-${facts.restarts}`;
        const spec = { id, hostname: pod.spec.hostname ?? name, image: container.image ?? '', env, mounts };
        const started = await runtime.start({
          ...spec,
          logPath: log.path,
          ...(facts.ip === undefined ? {} : { ip: facts.ip }),
          ...(command === undefined ? {} : { command }),
          ...(args === undefined ? {} : { args }),
        });
        logs.push(log);
        log.follow(started.exited);
        facts.containerId = id;
        return started;
      } catch (error) {
        reportStart(container, error);
      }
      await rest(delay);
    }
    return undefined;
  }

  function reportStart(container: Container, error: unknown): void {
    const message = error instanceof Error ? error.message : String(error);
    if (error instanceof ImageNotFound) {
      say('Warning', 'Failed', `Failed to pull image "${container.image}": ${message}`);
      say('Normal', 'BackOff', `Back-off pulling image "${container.image}"`);
      wait('ImagePullBackOff', `Back-off pulling image "${container.image}": ErrImagePull: ${message}`);
    } else if (error instanceof ConfigProblem) {
      const mounting = /volume|non-existent/.test(message);
      say('Warning', mounting ? 'FailedMount' : 'Failed', `Error: ${message}`);
      wait(mounting ? 'ContainerCreating' : 'CreateContainerConfigError', message);
    } else {
      say('Warning', 'Failed', `Error: ${message}`);
      wait('RunContainerError', message);
    }
  }

  async function runHook(one: RunningContainer, kind: 'PostStart' | 'PreStop', argv: string[]): Promise<void> {
    try {
      const child = one.exec(argv);
      child.stdin?.on('error', () => undefined).end();
      child.stdout?.resume();
      child.stderr?.resume();
      const [code] = (await once(child, 'close')) as [number | null];
      if (code !== 0) say('Warning', `Failed${kind}Hook`, `${kind}Hook failed: exit code ${code}`);
    } catch (error) {
      say(
        'Warning',
        `Failed${kind}Hook`,
        `${kind}Hook failed: ${error instanceof Error ? error.message : String(error)}`,
      );
    }
  }

  /** From start to end of one run of the container. Returns its exit code. */
  async function supervise(container: Container, one: RunningContainer): Promise<number> {
    const startedAt = timestamp();
    running = one;
    Object.assign(facts, { ip: one.ip, state: { running: { startedAt } }, ready: false, started: false });
    say('Normal', 'Started', `Started container ${container.name}`);
    publish();
    const ended = new AbortController();
    const pod = current();
    const grace = (pod?.spec.terminationGracePeriodSeconds ?? 30) * 1000;
    const probing = runProbes(
      runtime,
      container,
      one,
      {
        onReady(ready) {
          facts.ready = ready;
          publish();
        },
        onStarted() {
          facts.started = true;
          publish();
        },
        onUnhealthy: (kind, message) => say('Warning', 'Unhealthy', `${kind} probe failed: ${message}`),
        onDead() {
          say('Normal', 'Killing', `Container ${container.name} failed liveness probe, will be restarted`);
          void one.stop(grace);
        },
      },
      ended.signal,
    ).catch((error: unknown) => options.onError(`probes of ${namespace}/${name}`, error));
    const { postStart, preStop } = container.lifecycle ?? {};
    if (postStart?.exec?.command !== undefined) void runHook(one, 'PostStart', postStart.exec.command);
    const onEnding = () => {
      facts.ready = false;
      const hook = preStop?.exec?.command;
      // The grace period covers hook and shutdown together.
      const began = Date.now();
      const before =
        hook === undefined ? Promise.resolve() : Promise.race([runHook(one, 'PreStop', hook), sleep(graceMs)]);
      void before.then(() => one.stop(Math.max(0, graceMs - (Date.now() - began))));
    };
    ending.signal.addEventListener('abort', onEnding, { once: true });
    if (ending.signal.aborted) onEnding();
    const { code } = await one.exited;
    ending.signal.removeEventListener('abort', onEnding);
    ended.abort();
    await probing;
    running = undefined;
    const reason = code === 0 ? 'Completed' : 'Error';
    const containerID = `sandbox://${facts.containerId}`;
    const terminated = { exitCode: code, reason, startedAt, finishedAt: timestamp(), containerID };
    Object.assign(facts, { ready: false, started: false, state: { terminated } });
    return code;
  }

  async function run(): Promise<void> {
    await mkdir(podDir, { recursive: true });
    const pod = current();
    const container = pod?.spec.containers[0];
    if (pod === undefined || container === undefined) return;
    publish();
    const extra = [...(pod.spec.initContainers ?? []), ...pod.spec.containers.slice(1)].map((one) => one.name);
    if (extra.length > 0) {
      say('Warning', 'SandboxLimit', `The sandbox runs one container a pod; not started: ${extra.join(', ')}`);
    }
    await attached();
    let delay = restartDelay.firstMs;
    while (!ending.signal.aborted) {
      const began = Date.now();
      const one = await start(container);
      if (one === undefined) break;
      const code = await supervise(container, one);
      publish();
      const policy = pod.spec.restartPolicy;
      if (ending.signal.aborted || policy === 'Never' || (policy === 'OnFailure' && code === 0)) break;
      if (Date.now() - began > restartDelay.forgottenAfterMs) delay = restartDelay.firstMs;
      facts.lastState = facts.state;
      say('Warning', 'BackOff', `Back-off restarting failed container ${container.name} in pod ${name}`);
      wait('CrashLoopBackOff', `back-off ${delay / 1000}s restarting failed container=${container.name} pod=${name}`);
      await rest(delay);
      delay = Math.min(delay * 2, restartDelay.maxMs);
      facts.restarts += 1;
    }
  }

  /** The last word to the API: final status, then no grace period left, which takes the pod away. */
  function finish(): void {
    mounted = false;
    onChange();
    if (facts.state.waiting !== undefined && ending.signal.aborted) {
      facts.state = { terminated: { exitCode: 137, reason: 'ContainerStatusUnknown' } };
    }
    publish();
    if (current()?.metadata.deletionTimestamp === undefined) return;
    store.mutate('pods', namespace, name, (draft) => {
      draft.metadata.deletionGracePeriodSeconds = 0;
    });
  }

  /** A pod that ended by itself is taken away as soon as somebody deletes it. */
  const done = run()
    .catch((error: unknown) => options.onError(`pod ${namespace}/${name}`, error))
    .then(finish);

  return {
    container: () => running,
    log: (previous) => logs.at(previous ? -2 : -1),
    volumes: () => (mounted ? volumeNames : []),
    refresh(source) {
      const pod = current();
      if (pod === undefined || running === undefined || source.metadata.namespace !== namespace) return;
      if (!JSON.stringify(pod.spec.volumes ?? []).includes(`"${source.metadata.name}"`)) return;
      refreshVolumes({ store, volumes, podDir }, pod).catch((error: unknown) =>
        options.onError(`volumes of ${namespace}/${name}`, error),
      );
    },
    terminate(ms) {
      graceMs = ms;
      if (!ending.signal.aborted) {
        if (running !== undefined)
          say('Normal', 'Killing', `Stopping container ${current()?.spec.containers[0]?.name}`);
        ending.abort();
      } else void running?.stop(ms);
    },
    done,
  };
}
