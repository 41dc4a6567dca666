/**
 * How activities are called: each one's group of timeouts and retries, in one table. Retries bridge the minute that an API
 * server takes to restart, and are bounded: what they do not mend becomes a question to a person within about two. There is no
 * schedule-to-close limit but for notifications: a worker that is down for a night must not fail an upgrade.
 */
import { ActivityCancellationType, proxyActivities, type ActivityOptions } from '@temporalio/workflow';
import type { Duration } from '@temporalio/common';
import type { ArtifactActivities, SharedActivities } from '../activities/types.ts';

const groups = {
  /** Quick reads. */
  probe: {
    startToCloseTimeout: '30s',
    retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '10s', maximumAttempts: 10 },
  },
  /** A few calls of the Kubernetes API or of Cloudflare's, or commands in a pod; they heartbeat, so that a killed worker costs no more than that timeout. */
  kube: {
    startToCloseTimeout: '5m',
    heartbeatTimeout: '30s',
    retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '15s', maximumAttempts: 9 },
  },
  /** A few calls or small files, outside of the downtime, that do not heartbeat; longer than any wait inside them. */
  call: {
    startToCloseTimeout: '2m',
    retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '15s', maximumAttempts: 9 },
  },
  /** Looks into every database of a server, which takes its time where there are many. */
  look: {
    startToCloseTimeout: '15m',
    heartbeatTimeout: '30s',
    retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '15s', maximumAttempts: 9 },
  },
  /** Waits for something outside to happen, and heartbeats meanwhile. What is not ready after that wait is for a person. */
  wait: {
    startToCloseTimeout: '13h',
    heartbeatTimeout: '30s',
    retry: {
      initialInterval: '1s',
      backoffCoefficient: 2,
      maximumInterval: '15s',
      maximumAttempts: 9,
      nonRetryableErrorTypes: ['NotReady'],
    },
  },
  /** Waits for something to stop by itself, for as long as that may take: what runs then is for a person. */
  stop: {
    startToCloseTimeout: '13h',
    heartbeatTimeout: '30s',
    retry: {
      initialInterval: '1s',
      backoffCoefficient: 2,
      maximumInterval: '15s',
      maximumAttempts: 9,
      nonRetryableErrorTypes: ['NotStopped'],
    },
  },
  /** Hours of work in a pod, polled; a killed worker costs one attempt and the heartbeat timeout. */
  long: {
    startToCloseTimeout: '3d',
    heartbeatTimeout: '30s',
    retry: { initialInterval: '1s', backoffCoefficient: 2, maximumInterval: '15s', maximumAttempts: 8 },
  },
  /** Like long, but a lost job leaves a half-filled server: the phase must empty it first. */
  import: {
    startToCloseTimeout: '3d',
    heartbeatTimeout: '30s',
    retry: {
      initialInterval: '1s',
      backoffCoefficient: 2,
      maximumInterval: '15s',
      maximumAttempts: 8,
      nonRetryableErrorTypes: ['JobLost'],
    },
  },
  notify: {
    startToCloseTimeout: '10s',
    scheduleToCloseTimeout: '1m',
    retry: { initialInterval: '1s', backoffCoefficient: 2, maximumAttempts: 3 },
  },
} as const satisfies Record<string, ActivityOptions>;

type Group = keyof typeof groups;

const sharedGroups: Record<keyof SharedActivities, Group> = {
  resolveSpec: 'probe',
  inspectCluster: 'kube',
  inspectSource: 'look',
  inspectVolume: 'call',
  inspectRoutes: 'kube',
  artifactStore: 'probe',
  takeLease: 'kube',
  beginJournal: 'kube',
  journalOld: 'kube',
  readJournal: 'kube',
  compareOldWorld: 'kube',
  seeSource: 'look',
  countWrites: 'kube',
  lostWrites: 'kube',
  closeTarget: 'kube',
  journalUndo: 'kube',
  journalUndone: 'kube',
  journalCommit: 'kube',
  journalBack: 'kube',
  closeJournal: 'kube',
  setReclaimPolicy: 'kube',
  createScratch: 'kube',
  createCandidate: 'wait',
  pauseReconciler: 'stop',
  seeAtRest: 'stop',
  stopService: 'stop',
  suspendCronJob: 'stop',
  startService: 'wait',
  resumeCronJob: 'kube',
  observeService: 'kube',
  haltDatabase: 'stop',
  replaceClaim: 'stop',
  deployTarget: 'wait',
  emptyTarget: 'wait',
  openTarget: 'wait',
  sweepTarget: 'wait',
  checkCandidate: 'look',
  fenceSource: 'kube',
  dump: 'long',
  fingerprint: 'long',
  importDump: 'import',
  tryLogins: 'wait',
  analyze: 'long',
  saveSettings: 'kube',
  carrySettings: 'kube',
  nextTransaction: 'kube',
  otherSessions: 'kube',
  observeDatabase: 'look',
  awaitDetached: 'wait',
  startClone: 'wait',
  awaitClone: 'wait',
  setRoute: 'kube',
  verifyRoutes: 'wait',
  notify: 'notify',
  restoreReclaimPolicy: 'kube',
  removeCandidate: 'wait',
  removeScratch: 'wait',
  releaseLease: 'kube',
  restoreRoute: 'kube',
  restoreService: 'wait',
  restoreCronJob: 'kube',
  resumeReconciler: 'kube',
  liftSourceFence: 'kube',
  restartSource: 'wait',
  rebindOriginal: 'wait',
  restoreTemplate: 'wait',
  removeClone: 'wait',
  removeOriginal: 'wait',
};

const artifactGroups: Record<keyof ArtifactActivities, Group> = {
  copyOut: 'long',
  copyIn: 'long',
  compareFingerprints: 'long',
  editManifest: 'call',
  writeReport: 'call',
};

type Proxy = Record<string, (...args: unknown[]) => Promise<unknown>>;

/** Temporal keeps summaries up to 400 bytes; a long name of an object must not fail the call. */
function short(summary: string): string {
  return summary.length <= 120 ? summary : `${summary.slice(0, 119)}…`;
}

function call(name: string, options: ActivityOptions, args: unknown[]): Promise<unknown> {
  // The SDK's own default is not to wait (TRY_CANCEL, whatever its comments say): then what is put back could meet what is
  // still being changed, and the change would come last.
  const cancellationType = ActivityCancellationType.WAIT_CANCELLATION_COMPLETED;
  const activity = proxyActivities<Proxy>({ ...options, cancellationType })[name];
  if (!activity) throw new RangeError(`no activity ${name}`);
  const result = activity(...args);
  // Beside the result, not around it: one more step in its chain would change the order of what follows in kept histories.
  result.catch((error: unknown) => {
    if (typeof error === 'object' && error !== null) summaries.set(error, options.summary ?? '');
  });
  return result;
}

const summaries = new WeakMap<object, string>();

/** What the call that failed with this error was doing; null for what is no failed call. */
export function summaryOf(error: unknown): string | null {
  return typeof error === 'object' && error !== null ? (summaries.get(error) ?? null) : null;
}

/** Calls one activity of the shared queue; `summary` is what the Web UI shows beside it. */
export function act<Name extends keyof SharedActivities>(
  name: Name,
  summary: string,
  ...args: Parameters<SharedActivities[Name]>
): ReturnType<SharedActivities[Name]>;
export function act(name: keyof SharedActivities, summary: string, ...args: unknown[]): Promise<unknown> {
  return call(name, { ...groups[sharedGroups[name]], summary: short(summary) }, args);
}

/**
 * The same for what may fail without harm: some 20 seconds are spent between its attempts, and no more. They are many, for each
 * death of a worker costs every activity that runs there one.
 */
export function actOnce<Name extends keyof SharedActivities>(
  name: Name,
  summary: string,
  ...args: Parameters<SharedActivities[Name]>
): ReturnType<SharedActivities[Name]>;
export function actOnce(name: keyof SharedActivities, summary: string, ...args: unknown[]): Promise<unknown> {
  const group = groups[sharedGroups[name]];
  const retry = { ...group.retry, backoffCoefficient: 1.5, maximumInterval: '3s', maximumAttempts: 9 } as const;
  return call(name, { ...group, retry, summary: short(summary) }, args);
}

/** How to reach the one worker that keeps an upgrade's artifacts. */
export interface ArtifactQueue {
  queue: string;
  folder: string;
  /** How long nobody may serve the queue before the upgrade parks. */
  patience: Duration;
}

/** Calls one activity on the queue of the artifact folder. Fails with a schedule-to-start timeout when nobody serves it. */
export function actOnArtifacts<Name extends keyof ArtifactActivities>(
  where: ArtifactQueue,
  name: Name,
  summary: string,
  ...args: Parameters<ArtifactActivities[Name]>
): ReturnType<ArtifactActivities[Name]>;
export function actOnArtifacts(
  where: ArtifactQueue,
  name: keyof ArtifactActivities,
  summary: string,
  ...args: unknown[]
): Promise<unknown> {
  const options = {
    ...groups[artifactGroups[name]],
    taskQueue: where.queue,
    scheduleToStartTimeout: where.patience,
    summary: short(summary),
  };
  return call(name, options, args);
}
