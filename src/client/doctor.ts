/** Whether everything that an upgrade needs is there, each thing with what to do when it is not. */
import { checkCloudflare, checkCluster, checkLinode } from '../worker/checks.ts';
import { readWorkerConfig } from '../worker/config.ts';
import type { Check } from '../domain/checks.ts';
import { UserError } from '../domain/exit-codes.ts';
import { connect, countWorkers, type Session } from './connection.ts';

/**
 * Looks from where it is run. Tokens and kubeconfig are the worker's business: where they are not set here, the check is
 * SKIPPED when a worker is there, which has checked its own at its start.
 */
export async function doctor(): Promise<Check[]> {
  const checks: Check[] = [checkNode()];
  const session = await connectOrSay(checks);
  try {
    const workers = session ? await checkWorkers(session, checks) : 0;
    checks.push(...(await checkEnvironment(workers)));
  } finally {
    await session?.close();
  }
  return checks;
}

function checkNode(): Check {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const good = major > 22 || (major === 22 && minor >= 19);
  return good
    ? { id: 'node', status: 'PASSED', message: `Node ${process.versions.node}.` }
    : {
        id: 'node',
        status: 'FAILED',
        message: `Node ${process.versions.node} is too old.`,
        remedy: 'Install Node 24, or run node scripts/setup.mjs.',
      };
}

async function connectOrSay(checks: Check[]): Promise<Session | null> {
  try {
    const session = await connect();
    checks.push({
      id: 'temporal',
      status: 'PASSED',
      message: `Temporal’s server at ${session.address} answers, namespace ${session.namespace}.`,
    });
    return session;
  } catch (error) {
    checks.push(failed('temporal', error));
    return null;
  }
}

/** Throws what is not for a user. */
function failed(id: string, error: unknown): Check {
  if (!(error instanceof UserError)) throw error;
  const [message = '', ...remedy] = error.message.split(/(?<=[.)]) (?=[A-Z])/);
  return { id, status: 'FAILED', message, remedy: remedy.join(' ') };
}

async function checkWorkers(session: Session, checks: Check[]): Promise<number> {
  let workers = 0;
  try {
    workers = await countWorkers(session);
  } catch (error) {
    checks.push(failed('worker', error));
    return 0;
  }
  checks.push(
    workers > 0
      ? {
          id: 'worker',
          status: 'PASSED',
          message: `${workers === 1 ? 'A worker serves' : `${workers} workers serve`} task queue ${session.taskQueue}.`,
        }
      : {
          id: 'worker',
          status: 'FAILED',
          message: `No worker serves task queue ${session.taskQueue}.`,
          remedy: 'Start one where it reaches the cluster: pgleap worker.',
        },
  );
  return workers;
}

async function checkEnvironment(workers: number): Promise<Check[]> {
  try {
    const config = readWorkerConfig();
    const linode = await checkLinode({ token: config.linodeToken, url: config.linodeUrl });
    return [
      await checkCluster(config.kubeConfig),
      config.linodeToken === '' && workers > 0
        ? { id: 'linode', status: 'SKIPPED', message: 'LINODE_TOKEN is not set here; the worker may have its own.' }
        : linode,
      await checkCloudflare({ token: config.cloudflareToken, url: config.cloudflareUrl }),
    ];
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return [
      workers > 0
        ? {
            id: 'environment',
            status: 'SKIPPED',
            message: `${error.message} The worker has checked its own environment.`,
          }
        : { id: 'environment', status: 'FAILED', message: error.message, remedy: 'Set it where the worker will run.' },
    ];
  }
}
