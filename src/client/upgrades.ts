/** What can be done with upgrades through Temporal: the library below the `pgleap` command, used by the demo too. */
import {
  isGrpcServiceError,
  WorkflowExecutionAlreadyStartedError,
  WorkflowFailedError,
  WorkflowNotFoundError,
  WorkflowUpdateFailedError,
  type WorkflowHandle,
} from '@temporalio/client';
import { setTimeout as sleep } from 'node:timers/promises';
import {
  ApplicationFailure,
  CancelledFailure,
  defaultPayloadConverter,
  TerminatedFailure,
  type Payload,
} from '@temporalio/common';
import type { Progress } from '../activities/types.ts';
import { askedTooEarly } from '../domain/asked-too-early.ts';
import type { MessageName } from '../domain/decide.ts';
import { UserError, type ExitName } from '../domain/exit-codes.ts';
import type { Plan } from '../domain/plan.ts';
import type { Spec } from '../domain/spec.ts';
import type { UpgradeResult, UpgradeStatus } from '../domain/state.ts';
import type { planPostgres, upgradePostgres } from '../workflows/index.ts';
import { loadCodec } from '../worker/codec.ts';
import { bounded, noWorker, requireWorker, type Session } from './connection.ts';

/** Fixed by the database, so that Temporal itself keeps two upgrades of one database apart. */
export function workflowIdOf(spec: Spec): string {
  return `pgleap/${spec.database.namespace}/${spec.database.workload}`;
}

/** Runs `planPostgres`, which reads and changes nothing, and resolves with the plan. */
export async function planUpgrade(session: Session, input: Record<string, unknown>): Promise<Plan> {
  await requireWorker(session);
  const handle = await session.client.workflow.start<typeof planPostgres>('planPostgres', {
    args: [input],
    taskQueue: session.taskQueue,
    workflowId: `pgleap-plan/${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}`,
    // Nothing is changed by it, so nothing is lost when it is cut off.
    workflowExecutionTimeout: '10m',
    staticSummary: 'Plan of a PostgreSQL upgrade (reads only)',
  });
  const result = handle.result();
  const answered = new AbortController();
  try {
    // A worker that was killed a moment ago still looks alive: whether it answers is seen from its first answer.
    const late = sleep(10_000, 'late' as const, { signal: answered.signal }).catch(() => 'late' as const);
    if ((await Promise.race([result, late])) === 'late' && (await handle.describe()).historyLength <= 2) {
      result.catch(() => undefined);
      await handle.terminate('no worker took it');
      throw noWorker(session, 'did take the plan within 10 s');
    }
    return await result;
  } catch (error) {
    throw explainEnd(error);
  } finally {
    answered.abort();
  }
}

/** Starts an upgrade, in the name of `startedBy`; throws UserError `alreadyRunning` when one of this database runs. */
export async function startUpgrade(
  session: Session,
  input: Record<string, unknown>,
  spec: Spec,
  startedBy: string | null,
): Promise<{ workflowId: string; runId: string }> {
  await requireWorker(session);
  const workflowId = workflowIdOf(spec);
  const database = `${spec.database.namespace}/${spec.database.workload}`;
  try {
    const handle = await session.client.workflow.start<typeof upgradePostgres>('upgradePostgres', {
      args: [input],
      taskQueue: session.taskQueue,
      workflowId,
      workflowIdConflictPolicy: 'FAIL',
      workflowIdReusePolicy: 'ALLOW_DUPLICATE',
      memo: {
        pgleap: { searchAttributes: await hasSearchAttributes(session), ...(startedBy === null ? {} : { startedBy }) },
      },
      staticSummary: `PostgreSQL upgrade of ${database} to ${spec.target.image}`.slice(0, 190),
      staticDetails:
        `Takes the PostgreSQL server ${database} over to \`${spec.target.image}\`. ` +
        'The current details say where it is, what it waits for and what to type. Do not terminate it: ' +
        'a terminated upgrade puts nothing back. To stop it, send the update `rollback`.',
    });
    return { workflowId, runId: handle.firstExecutionRunId };
  } catch (error) {
    if (error instanceof WorkflowExecutionAlreadyStartedError) {
      throw new UserError(
        'alreadyRunning',
        `An upgrade of ${database} runs already; nothing was started. Look at it: pgleap status ${database}`,
      );
    }
    throw error;
  }
}

/** Temporal's number for attributes of type Keyword. */
const keyword = 2;

/** Servers without the two optional attributes, or that do not say, simply go without them. */
async function hasSearchAttributes({ client, namespace }: Session): Promise<boolean> {
  try {
    const { connection } = client;
    if (!('operatorService' in connection)) return false;
    const { customAttributes } = await client.withDeadline(Date.now() + 5000, () =>
      client.connection.operatorService.listSearchAttributes({ namespace }),
    );
    return ['PgleapPhase', 'PgleapWaiting'].every((name) => Number(customAttributes?.[name]) === keyword);
  } catch {
    return false;
  }
}

/**
 * The workflow id of the upgrade that was meant: a full id, `namespace/workload`, or nothing where only one can be meant.
 * Throws UserError `notFound`.
 */
export async function findUpgrade(session: Session, name: string | undefined): Promise<string> {
  if (name !== undefined) return name.startsWith('pgleap/') ? name : `pgleap/${name}`;
  const running = await listUpgrades(session, 'WorkflowType = "upgradePostgres" AND ExecutionStatus = "Running"');
  const found = running.length > 0 ? running : await listUpgrades(session, 'WorkflowType = "upgradePostgres"');
  const [first, second] = found;
  if (first === undefined) {
    throw new UserError('notFound', `There is no upgrade in namespace ${session.namespace} at ${session.address}.`);
  }
  if (second !== undefined) {
    throw new UserError('usage', `Which one? There are upgrades ${found.join(' and ')}: name one of them.`);
  }
  return first;
}

async function listUpgrades({ client }: Session, query: string): Promise<string[]> {
  const ids = new Set<string>();
  for await (const { workflowId } of client.workflow.list({ query, pageSize: 50 })) {
    ids.add(workflowId);
    if (ids.size === 20) break;
  }
  return [...ids];
}

/** The state of an upgrade; also of one that has ended, as long as Temporal keeps its history. */
export async function upgradeStatus(session: Session, workflowId: string): Promise<UpgradeStatus> {
  const handle = session.client.workflow.getHandle(workflowId);
  try {
    return await bounded(session, `tell the status of ${workflowId}`, () => askStatus(handle));
  } catch (error) {
    throw explainMissing(error, workflowId);
  }
}

/** The query, asked again where it came too early. */
export async function askStatus(handle: Pick<WorkflowHandle, 'query'>): Promise<UpgradeStatus> {
  for (;;) {
    try {
      return await handle.query<UpgradeStatus>('status');
    } catch (error) {
      if (!(error instanceof Error && error.message.includes(askedTooEarly))) throw error;
      await sleep(200);
    }
  }
}

/** Sends one message as an update and resolves with what was answered; throws UserError `refused` with why not. */
export async function sendMessage(
  session: Session,
  workflowId: string,
  name: MessageName,
  message: Record<string, unknown>,
): Promise<string> {
  const handle = session.client.workflow.getHandle(workflowId);
  try {
    return await bounded(session, `take the message ${name}`, () =>
      handle.executeUpdate<string, [Record<string, unknown>]>(name, { args: [message] }),
    );
  } catch (error) {
    if (error instanceof WorkflowUpdateFailedError) {
      throw new UserError('refused', `Refused: ${error.cause instanceof Error ? error.cause.message : error.message}`);
    }
    throw explainMissing(error, workflowId);
  }
}

/** An activity that runs now, with what it last measured. */
export interface PendingActivity {
  name: string;
  attempt: number;
  progress: Progress | null;
  /** Milliseconds since 1970 of the heartbeat; null before the first. */
  at: number | null;
  /** Message of the attempt before, when it failed. */
  lastFailure: string | null;
}

export type RunState = 'RUNNING' | 'COMPLETED' | 'FAILED' | 'TERMINATED' | 'CANCELLED' | 'TIMED_OUT' | 'OTHER';

/** Asks Temporal's server only: it answers also when no worker does. */
export async function describeUpgrade(
  session: Session,
  workflowId: string,
): Promise<{ state: RunState; activities: PendingActivity[] }> {
  try {
    const handle = session.client.workflow.getHandle(workflowId);
    const { raw, status } = await bounded(session, `describe ${workflowId}`, () => handle.describe());
    const pending = (raw.pendingActivities ?? []).map(async (activity): Promise<PendingActivity> => {
      const progress = await plainOf(activity.heartbeatDetails?.payloads?.[0]);
      const hidden = await plainOf(activity.lastFailure?.encodedAttributes);
      const seconds = activity.lastHeartbeatTime?.seconds;
      return {
        name: activity.activityType?.name ?? '',
        attempt: activity.attempt ?? 1,
        progress: readProgress(progress),
        at: seconds ? Number(seconds) * 1000 + (activity.lastHeartbeatTime?.nanos ?? 0) / 1e6 : null,
        lastFailure: messageIn(hidden) ?? activity.lastFailure?.message ?? null,
      };
    });
    const activities = await Promise.all(pending);
    const known: RunState[] = ['RUNNING', 'COMPLETED', 'FAILED', 'TERMINATED', 'CANCELLED', 'TIMED_OUT'];
    return { state: known.find((one) => one === status.name) ?? 'OTHER', activities };
  } catch (error) {
    throw explainMissing(error, workflowId);
  }
}

/** What the SDK leaves as it came over the wire. */
async function plainOf(payload: Payload | null | undefined): Promise<unknown> {
  if (!payload) return undefined;
  const [plain = payload] = (await loadCodec()?.decode([payload])) ?? [];
  return defaultPayloadConverter.fromPayload(plain);
}

/** With a codec the server keeps a failure's words in a payload of their own. */
function messageIn(hidden: unknown): string | null {
  const found = typeof hidden === 'object' && hidden !== null && 'message' in hidden ? hidden.message : null;
  return typeof found === 'string' ? found : null;
}

function readProgress(value: unknown): Progress | null {
  const looksRight =
    typeof value === 'object' &&
    value !== null &&
    'what' in value &&
    'done' in value &&
    'total' in value &&
    'unit' in value;
  return looksRight ? (value as Progress) : null;
}

/** Waits for the end; throws UserError with the exit code that says how it ended. */
export async function upgradeResult(session: Session, workflowId: string): Promise<UpgradeResult> {
  try {
    return await session.client.workflow.getHandle<typeof upgradePostgres>(workflowId).result();
  } catch (error) {
    throw explainEnd(explainMissing(error, workflowId));
  }
}

const exits: Record<string, ExitName> = {
  SpecInvalid: 'invalidSpec',
  PreflightRefused: 'checksFailed',
  Locked: 'alreadyRunning',
  RolledBack: 'rolledBack',
  AccessDenied: 'unreachable',
  Unreachable: 'unreachable',
};

/** A workflow that ended otherwise than well, as one paragraph and an exit code. */
function explainEnd(error: unknown): unknown {
  if (!(error instanceof WorkflowFailedError)) return error;
  const chain: unknown[] = [];
  for (let cause: unknown = error.cause; cause instanceof Error; cause = cause.cause) chain.push(cause);
  const failure = chain.find((one) => one instanceof ApplicationFailure);
  if (failure) return new UserError(exits[failure.type ?? ''] ?? 'upgradeFailed', failure.message);
  if (chain.some((one) => one instanceof TerminatedFailure)) {
    return new UserError(
      'upgradeFailed',
      'The workflow was terminated: nothing was put back. The journal in the database’s namespace says what stands; ' +
        'put the old world back, or finish reopening: pgleap recover NAMESPACE/WORKLOAD',
    );
  }
  if (chain.some((one) => one instanceof CancelledFailure))
    return new UserError('rolledBack', 'The workflow was cancelled.');
  return new UserError('upgradeFailed', error.cause?.message ?? error.message);
}

function explainMissing(error: unknown, workflowId: string): unknown {
  const gone = error instanceof WorkflowNotFoundError || (isGrpcServiceError(error) && error.code === 5);
  if (!gone) return error;
  return new UserError(
    'notFound',
    `There is no upgrade ${workflowId}, or it has ended and takes no messages any more.`,
  );
}
