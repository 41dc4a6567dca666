import {
  makeTelemetryFilterString,
  NativeConnection,
  Runtime,
  Worker,
  type LogLevel,
  type WorkerOptions,
} from '@temporalio/worker';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { hostname } from 'node:os';
import { text as readAll } from 'node:stream/consumers';
import { fileURLToPath } from 'node:url';
import { createActivities } from '../activities/index.ts';
import { openStore } from '../activities/artifacts/store.ts';
import { messageOf } from '../activities/errors.ts';
import type { Check } from '../domain/checks.ts';
import { UserError } from '../domain/exit-codes.ts';
import { checkCloudflare, checkCluster, checkLinode } from './checks.ts';
import { readWorkerConfig } from './config.ts';
import { serveHealth } from './health.ts';
import { createLogger } from './logger.ts';
import { loadDataConverter } from './codec.ts';
import { cleaner, kubeSecrets, secretsNet } from './secrets.ts';
import { loadTemporalConfig } from './temporal-config.ts';

/** Less than a probe waits. */
const readyMs = 3000;

/**
 * Serves two task queues until SIGINT or SIGTERM: the shared one with workflows and most activities, and the one of the
 * artifact folder. Activities under way get some seconds to finish; a longer one is begun again by the next worker and
 * finds what it had done. Throws UserError for what the operator can mend.
 */
export async function runWorker(options: { json: boolean; level?: LogLevel }): Promise<void> {
  const config = readWorkerConfig();
  const dataConverter = loadDataConverter();
  const secrets = [
    config.linodeToken,
    config.cloudflareToken,
    process.env['TEMPORAL_API_KEY'] ?? '',
    config.notifyUrl ?? '',
    ...kubeSecrets(config.kubeConfig),
  ];
  const clean = cleaner(secrets);
  const logger = createLogger({ json: options.json, level: options.level ?? 'INFO', clean });
  installRuntime(logger, config.metrics);

  for (const check of await Promise.all([
    checkCluster(config.kubeConfig),
    checkLinode({ token: config.linodeToken, url: config.linodeUrl }),
    checkCloudflare({ token: config.cloudflareToken, url: config.cloudflareUrl }),
  ])) {
    report(check, logger);
  }

  const { connection, namespace, address } = await connect();
  const running: Worker[] = [];
  let health: Awaited<ReturnType<typeof serveHealth>> | undefined;
  try {
    if (config.health !== undefined) {
      health = await serveHealth(config.health, () => whyNotReady(running, connection, namespace));
    }
    const store = await openStore(config.artifacts).catch((error: unknown) => {
      throw new UserError(
        'configuration',
        `The artifact folder ${config.artifacts} cannot be used: ${messageOf(error)}. Let PGLEAP_ARTIFACTS name a folder of the worker’s own user, on a disk that may be written.`,
        { cause: error },
      );
    });
    const activities = createActivities(config, store);
    const common = {
      connection,
      namespace,
      ...(dataConverter === undefined ? {} : { dataConverter }),
      interceptors: { activity: [secretsNet(clean)] },
      identity: `pgleap@${hostname()}:${process.pid}`,
      // A heartbeat's answer brings the word that a rollback waits for this activity; by default that takes 24 s of downtime.
      maxHeartbeatThrottleInterval: '2s',
      shutdownGraceTime: '5s',
      // An activity that does not listen must not keep a pod from ending.
      shutdownForceTime: '20s',
    } satisfies Partial<WorkerOptions>;
    const workers = await Promise.all([
      Worker.create({
        ...common,
        taskQueue: config.taskQueue,
        workflowBundle: { code: await bundled(dataConverter?.failureConverterPath) },
        workflowThreadPoolSize: 1,
        activities: activities.shared,
        maxConcurrentActivityTaskExecutions: 40,
        maxCachedWorkflows: 50,
      }),
      Worker.create({
        ...common,
        taskQueue: store.queue,
        activities: activities.artifacts,
        maxConcurrentActivityTaskExecutions: 4,
      }),
    ]);
    logger.info(`worker is ready: serves ${config.taskQueue} and ${store.queue} of ${namespace} at ${address}`);
    running.push(...workers);
    await runAll(workers);
    logger.info('worker has ended');
  } finally {
    health?.close();
    await connection.close();
  }
}

/** undefined when both workers ask for tasks and Temporal answers. */
async function whyNotReady(
  workers: Worker[],
  connection: NativeConnection,
  namespace: string,
): Promise<string | undefined> {
  if (workers.length === 0) return 'the worker reads its workflows';
  const idle = workers.find((worker) => worker.getState() !== 'RUNNING');
  if (idle !== undefined) return `the worker of ${idle.options.taskQueue} is ${idle.getState()}`;
  try {
    await connection.withDeadline(Date.now() + readyMs, () =>
      connection.workflowService.describeNamespace({ namespace }),
    );
    return undefined;
  } catch (error) {
    return `Temporal does not answer: ${messageOf(error)}`;
  }
}

/** Made by a process of its own: what bundling takes of memory, some 200 MB, would stay with the worker for good. */
async function bundled(failureConverterPath: string | undefined): Promise<string> {
  const program = fileURLToPath(new URL('bundle.ts', import.meta.url));
  const args = failureConverterPath === undefined ? [] : [failureConverterPath];
  // Ctrl-C is for the worker alone, which ends when it is about to begin.
  const child = spawn(process.execPath, [program, ...args], { detached: true, stdio: ['ignore', 'pipe', 'inherit'] });
  const [code, [status]] = await Promise.all([readAll(child.stdout), once(child, 'close')]);
  if (status !== 0) throw new Error('the workflows could not be bundled: what is said above tells why');
  return code;
}

/** When one of them fails the other ends, too: half a worker would look healthy and let upgrades hang. */
async function runAll(workers: Worker[]): Promise<void> {
  let failure: unknown;
  await Promise.all(
    workers.map((worker) =>
      worker.run().catch((error: unknown) => {
        failure ??= error;
        for (const other of workers) if (other.getState() === 'RUNNING') other.shutdown();
      }),
    ),
  );
  if (failure !== undefined) throw failure;
}

function installRuntime(logger: ReturnType<typeof createLogger>, metrics: string | undefined): void {
  try {
    Runtime.install({
      logger,
      telemetryOptions: {
        logging: { forward: {}, filter: makeTelemetryFilterString({ core: 'WARN' }) },
        ...(metrics === undefined
          ? {}
          : { metrics: { prometheus: { bindAddress: metrics, useSecondsForDurations: true } } }),
      },
    });
  } catch (error) {
    throw new UserError('configuration', `PGLEAP_METRICS=${metrics} cannot be listened on: ${messageOf(error)}`);
  }
}

/** A FAILED check ends the worker: it would take tasks that it cannot do. */
function report(check: Check, logger: ReturnType<typeof createLogger>): void {
  const text = `${check.message} ${check.remedy ?? ''}`.trim();
  if (check.status === 'FAILED') throw new UserError('unreachable', text);
  if (check.status === 'WARNING') logger.warn(text);
  else logger.info(text);
}

async function connect(): Promise<{ connection: NativeConnection; namespace: string; address: string }> {
  const { connectionOptions, namespace = 'default' } = loadTemporalConfig();
  const address = connectionOptions.address ?? 'localhost:7233';
  let connection: NativeConnection | undefined;
  try {
    connection = await NativeConnection.connect(connectionOptions);
    await connection.workflowService.describeNamespace({ namespace });
    return { connection, namespace, address };
  } catch (error) {
    await connection?.close();
    const remedy = /not ?found/i.test(messageOf(error))
      ? `Create the namespace: temporal operator namespace create --namespace ${namespace}`
      : 'Start one (temporal server start-dev), or set TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and TEMPORAL_API_KEY or TEMPORAL_TLS_….';
    throw new UserError(
      'noTemporal',
      `No Temporal server can be used at ${address} (namespace ${namespace}): ${messageOf(error)}. ${remedy}`,
      {
        cause: error,
      },
    );
  }
}
