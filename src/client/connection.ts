import { Client, Connection, isGrpcDeadlineError, isGrpcServiceError } from '@temporalio/client';
import { UserError } from '../domain/exit-codes.ts';
import { loadDataConverter } from '../worker/codec.ts';
import { loadTemporalConfig } from '../worker/temporal-config.ts';

/** A connection to Temporal, configured as the `temporal` command is: environment, then its configuration file. */
export interface Session {
  client: Client;
  address: string;
  namespace: string;
  /** The shared task queue of pgleap's workers. */
  taskQueue: string;
  close: () => Promise<void>;
}

/** How long a worker may take to answer a message or a query. */
const patienceMs = 10_000;

/** Throws UserError `noTemporal` with what to do about it. */
export async function connect(options: { address?: string } = {}): Promise<Session> {
  const { connectionOptions, namespace = 'default' } = loadTemporalConfig();
  const dataConverter = loadDataConverter();
  const address = options.address ?? connectionOptions.address ?? 'localhost:7233';
  const { tls, apiKey, metadata } = connectionOptions;
  let connection: Connection | undefined;
  try {
    connection = await Connection.connect({
      address,
      connectTimeout: 5000,
      ...(tls === undefined ? {} : { tls }),
      ...(apiKey === undefined ? {} : { apiKey }),
      ...(metadata === undefined ? {} : { metadata }),
    });
    await connection.withDeadline(Date.now() + 5000, () =>
      connection!.workflowService.describeNamespace({ namespace }),
    );
  } catch (error) {
    await connection?.close();
    throw noTemporal(error, address, namespace);
  }
  return {
    client: new Client({ connection, namespace, ...(dataConverter === undefined ? {} : { dataConverter }) }),
    address,
    namespace,
    taskQueue: process.env['PGLEAP_TASK_QUEUE'] || 'pgleap',
    close: () => connection.close(),
  };
}

function noTemporal(error: unknown, address: string, namespace: string): UserError {
  const code = isGrpcServiceError(error) ? error.code : null;
  if (code === 5) {
    return new UserError(
      'noTemporal',
      `Temporal’s server at ${address} has no namespace ${namespace}. Create it: ` +
        `temporal operator namespace create --namespace ${namespace}; or set TEMPORAL_NAMESPACE.`,
    );
  }
  if (code === 7 || code === 16) {
    return new UserError(
      'noTemporal',
      `Temporal’s server at ${address} refuses these credentials for namespace ${namespace}. ` +
        'Check TEMPORAL_API_KEY, TEMPORAL_TLS_… and TEMPORAL_NAMESPACE.',
    );
  }
  return new UserError(
    'noTemporal',
    `No Temporal server answers at ${address} (${text(error)}). Start one, for example: ` +
      'temporal server start-dev --db-filename temporal.db; or set TEMPORAL_ADDRESS to the one you have.',
  );
}

/**
 * Runs one request that a worker has to answer. Without a bound the SDK would ask for ever: after 10 s this throws
 * UserError `noWorker`, or `noTemporal` when it is the server that does not answer.
 */
export async function bounded<T>(session: Session, what: string, request: () => Promise<T>): Promise<T> {
  const { client, namespace, address } = session;
  try {
    return await client.withDeadline(Date.now() + patienceMs, request);
  } catch (error) {
    if (isUnserved(error)) throw noWorker(session, 'was there lately');
    if (!isLate(error)) throw error;
  }
  try {
    await client.withDeadline(Date.now() + 2000, () => client.workflowService.describeNamespace({ namespace }));
  } catch (error) {
    throw noTemporal(error, address, namespace);
  }
  throw noWorker(session, `did ${what} within ${patienceMs / 1000} s`);
}

/** The server does not even wait for a worker when none has asked for work in some 20 s. */
function isUnserved(error: unknown): boolean {
  if (isGrpcServiceError(error)) return error.code === 9 && error.message.includes('no poller');
  return error instanceof Error && isUnserved(error.cause);
}

function isLate(error: unknown): boolean {
  if (isGrpcDeadlineError(error)) return true;
  // The deadline reaches a call that waits for a worker as a cancellation, too; nobody else cancels these.
  if (isGrpcServiceError(error) && error.code === 1) return true;
  if (!(error instanceof Error)) return false;
  return error.name === 'WorkflowUpdateRPCTimeoutOrCancelledError' || isLate(error.cause);
}

/** Throws UserError `noWorker` when nobody has asked the task queue for work lately. */
export async function requireWorker(session: Session): Promise<void> {
  if ((await countWorkers(session)) === 0) throw noWorker(session, 'is there');
}

/**
 * Workers that asked the shared task queue for workflow tasks in the last two minutes; one that was killed still counts. A server
 * that is too busy to say is asked three times, for 10 s each; then this throws UserError `noTemporal`.
 */
export async function countWorkers({ client, namespace, taskQueue, address }: Session): Promise<number> {
  const ask = () => client.workflowService.describeTaskQueue({ namespace, taskQueue: { name: taskQueue } });
  for (let attempt = 1; ; attempt += 1) {
    try {
      const found = await client.withDeadline(Date.now() + patienceMs, ask);
      const recent = Date.now() - 120_000;
      const isRecent = (seconds: unknown) => Number(seconds ?? 0) * 1000 > recent;
      return (found.pollers ?? []).filter(({ lastAccessTime }) => isRecent(lastAccessTime?.seconds)).length;
    } catch (error) {
      if (!isLate(error)) throw error;
      if (attempt < 3) continue;
      throw new UserError(
        'noTemporal',
        `Temporal’s server at ${address} did not say within ${(attempt * patienceMs) / 1000} s who serves task queue ${taskQueue}. ` +
          'It may be overloaded. Look at it, and try again.',
      );
    }
  }
}

/** The error for a task queue that nobody serves; `what` goes on after “No pgleap worker”. */
export function noWorker({ taskQueue, namespace, address }: Session, what: string): UserError {
  return new UserError(
    'noWorker',
    `No pgleap worker ${what} on task queue ${taskQueue} of namespace ${namespace} at ${address}. ` +
      'Start one where it reaches the cluster (pgleap worker), or set PGLEAP_TASK_QUEUE to the queue it serves.',
  );
}

function text(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error && cause.message !== error.message ? cause.message : error.message;
}
