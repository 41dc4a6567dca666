import type { KubeConfig } from '@kubernetes/client-node';
import type { LoginsFact, ServerRef } from '../../domain/facts.ts';
import type { Spec } from '../../domain/spec.ts';
import { firstOf } from '../../domain/text.ts';
import { pause } from '../context.ts';
import { fail } from '../errors.ts';
import { clearJob } from '../kubernetes/jobs.ts';
import { timeProbes } from './inspect.ts';
import { fileName, lifeOf, runScript } from './job.ts';
import { sqlJson } from './psql.ts';

/** Over the socket of a fenced server; a password is not tried, because nobody knows it. */
export async function tryLogins(kc: KubeConfig, server: ServerRef): Promise<LoginsFact> {
  const name = fileName('logins', await lifeOf(kc, server));
  const out = await runScript(kc, server, { name, script: 'logins.sh', what: 'logins', unit: 'rows', again: true });
  await clearJob(kc, server.pod, name);
  const [tried, failedCount, ...failed] = out.split('\0').slice(0, -1);
  return { tried: Number(tried), failed, failedCount: Number(failedCount) };
}

export async function analyze(kc: KubeConfig, server: ServerRef): Promise<{ seconds: number }> {
  const name = fileName('analyze', await lifeOf(kc, server));
  const out = await runScript(kc, server, { name, script: 'analyze.sh', what: 'analyze', unit: 'tables', again: true });
  const { seconds }: { seconds: number } = JSON.parse(out);
  return { seconds };
}

const sessionsSql = `
SELECT coalesce(json_agg(json_build_object('login', usename, 'name', concat_ws(' ', usename || coalesce('@' || datname, ''),
  nullif(application_name, ''), 'from ' || coalesce(host(client_addr), 'the socket')))), '[]')
FROM pg_stat_activity WHERE backend_type IN ('client backend', 'walsender') AND application_name <> 'pgleap' AND pid <> pg_backend_pid()`;

async function sessionsOf(kc: KubeConfig, server: ServerRef): Promise<{ login: string; name: string }[]> {
  return await sqlJson<{ login: string; name: string }[]>(kc, server, sessionsSql);
}

/**
 * The server's snapshot: the next transaction id, and which before it have not ended. One of those may commit later without
 * moving the next one. Asking takes no id itself.
 */
export async function nextTransaction(kc: KubeConfig, server: ServerRef): Promise<string> {
  return await sqlJson<string>(kc, server, 'SELECT to_json(pg_current_snapshot()::text)');
}

/** `user@database application from address`, for people: the first of them, and how many more. */
export async function otherSessions(kc: KubeConfig, server: ServerRef): Promise<string[]> {
  return firstOf((await sessionsOf(kc, server)).map(({ name }) => name));
}

/** How long transactions are counted. Statistics are written at most once a second by each session. */
const countMs = 2000;

export async function observeDatabase(
  kc: KubeConfig,
  arg: { spec: Spec; server: ServerRef },
): Promise<{ sessions: number; logins: string[]; transactionsPerSecond: number; probeMs: number[] }> {
  const { spec, server } = arg;
  const count = () =>
    sqlJson<{ transactions: number; at: number }>(
      kc,
      server,
      `SELECT json_build_object('transactions', sum(xact_commit + xact_rollback), 'at', extract(epoch FROM clock_timestamp()))
       FROM pg_stat_database`,
    );
  const before = await count();
  await pause(countMs);
  const after = await count();
  const sessions = await sessionsOf(kc, server);
  const { ms, checks } = await timeProbes(kc, server, spec.probes);
  const broken = checks.find(({ status }) => status === 'FAILED');
  if (broken !== undefined) throw fail('CommandFailed', broken.message);
  return {
    sessions: sessions.length,
    logins: [...new Set(sessions.map(({ login }) => login))].sort(),
    // The first count is a transaction of its own.
    transactionsPerSecond: Math.max(0, (after.transactions - before.transactions - 1) / (after.at - before.at)),
    probeMs: ms,
  };
}
