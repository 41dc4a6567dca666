import type { KubeConfig } from '@kubernetes/client-node';
import type { PodRef, ServerRef } from '../../domain/facts.ts';
import { poll } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import { lifeBegan, sqlJson } from '../postgres/psql.ts';
import type { Kube, Resource } from './client.ts';
import { execInPod } from './exec.ts';
import { podRef, troubleOf } from './workloads.ts';

export interface Answer {
  versionNum: number;
  /** What the running server took for listen_addresses; empty while it is fenced. */
  listenAddresses: string;
  /** Of its present life, in seconds since 1970. */
  began: string;
}

interface Look extends Answer {
  pid: string;
}

const look = `
  SELECT json_build_object(
    'versionNum', current_setting('server_version_num')::int,
    'listenAddresses', current_setting('listen_addresses'),
    'pid', split_part(pg_read_file('postmaster.pid'), E'\\n', 1),
    'began', extract(epoch FROM ${lifeBegan})::text)
`;

/** How long a server that is not the container's first process must have been the same one. */
const stableMs = 5000;
/** What a server that is not up yet may say, or one that ends because its volume was emptied. */
const passing = ['Unreachable', 'StreamBroken', 'NotFound', 'PodLost', 'CommandFailed', 'ScratchLost'] as const;
/** A server has its bootstrap role from the start; one that lacks it never will. */
const noRoleMs = 10_000;

/**
 * Waits until the server in the pod that `find` gives answers on its socket, and is the real one: while it initialises, the
 * image runs another that also listens on the socket only. `trouble` sees what a pod that does not get there says of itself.
 */
export async function awaitServer(
  kube: Kube,
  role: ServerRef['role'],
  database: { container: string; superuser: string; port: number },
  options: {
    find: () => Promise<Resource<'Pod'> | undefined>;
    accept?: (answer: Answer) => boolean;
    trouble?: (pod: Resource<'Pod'>, trouble: { reason: string; text: string }) => Promise<void>;
    timeoutMs: number;
  },
): Promise<{ pod: Resource<'Pod'>; server: ServerRef; answer: Answer }> {
  let first: { key: string; at: number } | undefined;
  let last = 'there is no pod yet';
  let strangerSince: number | undefined;
  const found = await poll(
    async () => {
      const pod = await options.find();
      if (pod === undefined || pod.metadata?.deletionTimestamp !== undefined) return undefined;
      const trouble = troubleOf(pod);
      if (trouble !== undefined) {
        last = trouble.text;
        await options.trouble?.(pod, trouble);
      }
      const container = pod.status?.containerStatuses?.find((one) => one.name === database.container);
      if (container?.state?.running === undefined) return undefined;
      const server: ServerRef = {
        role,
        pod: podRef(pod, database.container),
        superuser: database.superuser,
        host: null,
        port: database.port,
      };
      try {
        const seen = await sqlJson<Look>(kube.kc, server, look, { timeoutMs: 10_000 });
        const key = `${pod.metadata?.uid} ${seen.pid} ${seen.began}`;
        if (first?.key !== key) first = { key, at: performance.now() };
        // Process 1 is what the container is about; the one of the initialisation never is.
        const real = seen.pid.trim() === '1' || performance.now() - first.at >= stableMs;
        last = `its server answers with listen_addresses '${seen.listenAddresses}'`;
        return real && (options.accept?.(seen) ?? true) ? { pod, server, answer: seen } : undefined;
      } catch (error) {
        if (!isFailure(error, ...passing)) throw error;
        last = error.message;
        if (/role "[^"]*" does not exist/.test(last)) {
          strangerSince ??= performance.now();
          if (performance.now() - strangerSince > noRoleMs) throw noRole(role, database.superuser);
        }
        return undefined;
      }
    },
    { timeoutMs: options.timeoutMs, startMs: 100, maxMs: 700 },
  );
  if (found !== undefined) return found;
  throw fail('NotReady', `the ${role} does not answer after ${Math.round(options.timeoutMs / 1000)} s: ${last}`);
}

/**
 * Whether PostgreSQL runs in this pod without its data, as when the volume was emptied under it: it notices, and ends, within
 * a minute only. False while the image's script has not become the server yet.
 */
export async function isDataGone(kc: KubeConfig, pod: PodRef): Promise<boolean> {
  const script = '[ "$(cat /proc/1/comm)" = postgres ] && [ ! -e "${PGDATA:?}/PG_VERSION" ]';
  return (await execInPod(kc, pod, ['sh', '-c', script])).code === 0;
}

function noRole(role: ServerRef['role'], superuser: string): Error {
  const remedy =
    'set POSTGRES_USER in its template to the source’s superuser, or database.superuser in the spec to that of the template';
  return fail(
    role === 'candidate' ? 'PreflightRefused' : 'CommandFailed',
    `the ${role}’s server has no role ${superuser}: ${remedy}`,
  );
}
