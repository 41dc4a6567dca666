import type { KubeConfig } from '@kubernetes/client-node';
import type { ServerRef } from '../../domain/facts.ts';
import { isServerGone, withoutRows } from '../../domain/sqlstate.ts';
import { beat } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import { awaitJob, clearJob, noSpace, readJob, startJob, type JobState } from '../kubernetes/jobs.ts';
import { isDataGone } from '../kubernetes/server.ts';
import type { Progress } from '../types.ts';
import { lifeBegan, script, serverArgs, sqlJson } from './psql.ts';

/** Name of a job, or of a file beside it: what callers give may hold anything. */
export function fileName(...parts: string[]): string {
  return parts
    .join('-')
    .toLowerCase()
    .replaceAll(/[^a-z0-9._-]+/g, '_');
}

/** Tells one life of a server from the next: a new one must not be given the old one's results. */
export async function lifeOf(kc: KubeConfig, server: ServerRef): Promise<string> {
  return await sqlJson<string>(
    kc,
    server,
    `SELECT to_json(floor(extract(epoch FROM ${lifeBegan}) * 1000)::bigint::text)`,
  );
}

export interface ScriptJob {
  name: string;
  /** File of this folder. */
  script: string;
  argv?: string[];
  /** Of the heartbeats. */
  what: string;
  unit: Progress['unit'];
  /** A job that was lost or failed may be begun anew: the next attempt does. */
  again: boolean;
  /** What the script's own exit codes mean, all of them from before it changed anything. */
  codes?: Record<number, (says: string) => Error>;
}

/**
 * Starts a script of this folder as a detached job, or finds it under its name, waits for it, and returns what it printed.
 * A job that failed is cleared away, so that an attempt after a person's look starts it anew.
 */
export async function runScript(kc: KubeConfig, server: ServerRef, job: ScriptJob): Promise<string> {
  const { pod } = server;
  await startJob(kc, pod, {
    name: job.name,
    script: script(job.script),
    argv: [...serverArgs(server), ...(job.argv ?? [])],
  });
  let state: JobState & { code: number };
  try {
    state = await awaitJob(kc, pod, job.name, ({ progress }) => {
      beat({ what: job.what, done: progress?.done ?? 0, total: progress?.total ?? null, unit: job.unit });
    });
    if (state.code === 0) return await readJob(kc, pod, job.name, 'out');
  } catch (error) {
    if (job.again && isFailure(error, 'JobLost', 'NoSpace')) await clearJob(kc, pod, job.name);
    throw error;
  }
  const says = withoutRows(state.errTail);
  const known = job.codes?.[state.code];
  if (job.again || known !== undefined) await clearJob(kc, pod, job.name);
  if (known !== undefined) throw known(says);
  if (/No space left on device/.test(says)) {
    throw await noSpace(kc, pod, job.what, says);
  }
  if (server.role === 'candidate' && (await isDataGone(kc, pod))) {
    throw fail(
      'ScratchLost',
      `${job.what}: the data of the candidate’s server in ${pod.namespace}/${pod.name} is gone`,
    );
  }
  throw fail(
    isServerGone(says) ? 'ServerLost' : 'CommandFailed',
    `${job.what} in ${pod.namespace}/${pod.name} ended with ${state.code}: ${says.slice(-1500)}`,
  );
}
