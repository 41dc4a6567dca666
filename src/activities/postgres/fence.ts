import type { KubeConfig } from '@kubernetes/client-node';
import type { ServerRef } from '../../domain/facts.ts';
import { firstOf } from '../../domain/text.ts';
import { poll } from '../context.ts';
import { fail } from '../errors.ts';
import { execInPod } from '../kubernetes/exec.ts';
import type { PostgresActivities } from '../types.ts';
import { script, serverArgs, sqlJson, sqlText } from './psql.ts';

/** How long sessions may take to end after they were told to. */
const endMs = 30_000;

/** Quoted as pg_hba.conf reads it: a keyword or a list in quotes is only a name. */
function hbaName(name: string): string {
  if (/[\n\r]/.test(name)) throw fail('Refused', 'a role whose name holds a line end cannot be let through the fence');
  return `"${name.replaceAll('"', '""')}"`;
}

/**
 * pg_hba.conf for the time of the upgrade: the superuser over the socket, the same from the candidate's address, and
 * read-only services' logins from anywhere. md5 also checks SCRAM passwords, so that either kind of verifier serves.
 */
function fenceLines(superuser: string, candidateIp: string, readOnlyLogins: string[]): string {
  const bits = candidateIp.includes(':') ? 128 : 32;
  return [
    `local all ${hbaName(superuser)} trust`,
    `host all ${hbaName(superuser)} ${candidateIp}/${bits} md5`,
    ...readOnlyLogins.map((login) => `host all ${hbaName(login)} all md5`),
    'local all all reject',
    'host all all all reject',
    'local replication all reject',
    'host replication all all reject',
  ].join('\n');
}

/** Everything that could write, other than pgleap's own sessions and the logins that the fence lets through. */
const othersSql = `
FROM pg_stat_activity WHERE pid <> pg_backend_pid()
  AND (backend_type IN ('client backend', 'walsender') OR backend_type ~ '^(logical replication .*worker|pg_cron)')
  AND NOT (application_name = 'pgleap' AND usename = current_user AND (client_addr IS NULL OR host(client_addr) = :'candidate'))
  AND NOT coalesce(usename = ANY (SELECT json_array_elements_text(:'logins'::json)), false)`;

const sessionName = `concat_ws(' ', coalesce(usename, backend_type) || coalesce('@' || datname, ''), nullif(application_name, ''),
  'from ' || coalesce(host(client_addr), 'the socket'))`;

/** Raises the fence, or renews it for another address of the candidate, and ends everybody else's sessions. */
export async function fenceSource(
  kc: KubeConfig,
  arg: Parameters<PostgresActivities['fenceSource']>[0],
): Promise<{ ended: string[]; endedCount: number; at: string; hba: string }> {
  const { source, hbaFile, candidateIp, readOnlyLogins, world } = arg;
  const lines = fenceLines(source.superuser, candidateIp, readOnlyLogins);
  const raised = await changeHba(kc, source, 'raise', hbaFile, world.upgradeId, lines);
  const hba = raised.replace('raised ', '');
  const wrong = await wrongLines(kc, source);
  if (wrong.length > 0) {
    await changeHba(kc, source, 'lift', hbaFile, world.upgradeId, '');
    throw fail(
      'CommandFailed',
      `the source does not accept the fence, which was taken down again: ${wrong.join('; ')}`,
    );
  }
  await reload(kc, source);
  const at = new Date().toISOString();

  const variables = { candidate: candidateIp, logins: JSON.stringify(readOnlyLogins) };
  const ended = new Set<string>();
  let left: string[] = [];
  const quiet = await poll(
    async () => {
      left = await sqlJson<string[]>(
        kc,
        source,
        `WITH others AS MATERIALIZED (SELECT pid, ${sessionName} AS name ${othersSql})
         SELECT coalesce(json_agg(name), '[]') FROM others WHERE pg_terminate_backend(pid) IS NOT NULL`,
        { variables },
      );
      for (const name of left) ended.add(name);
      return left.length === 0 ? true : undefined;
    },
    { timeoutMs: endMs, startMs: 200, maxMs: 1000 },
  );
  if (quiet === undefined) {
    throw fail(
      'SourceNotQuiet',
      `sessions come back behind the fence: ${firstOf(left).join(', ')}; they use the superuser or the server’s own workers: stop them`,
    );
  }
  return { ended: [...ended].sort().slice(0, 20), endedCount: ended.size, at, hba };
}

/** A transaction that was prepared outlives its session, no dump holds it, and its coordinator would not find it in the target. */
export async function assertNothingPrepared(kc: KubeConfig, source: ServerRef): Promise<void> {
  const prepared = await sqlJson<string[]>(
    kc,
    source,
    `SELECT coalesce(json_agg(format('%s in %s', gid, database)), '[]') FROM pg_prepared_xacts`,
  );
  if (prepared.length === 0) return;
  throw fail(
    'SourceNotQuiet',
    `prepared transactions are left behind the fence: ${firstOf(prepared).join(', ')}; COMMIT PREPARED or ROLLBACK PREPARED each in its database, as its coordinator decided`,
  );
}

/**
 * Puts the original pg_hba.conf back, byte for byte, with its mode and owner. Without a fence there is nothing to do. What
 * the candidate still does here is ended first: the locks of a dump that nobody waits for must not stand in services' way.
 */
export async function liftFence(kc: KubeConfig, source: ServerRef, hbaFile: string, upgradeId: string): Promise<void> {
  await sqlText(
    kc,
    source,
    `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
     WHERE application_name = 'pgleap' AND usename = current_user AND client_addr IS NOT NULL`,
  );
  await changeHba(kc, source, 'lift', hbaFile, upgradeId, '');
  const wrong = await wrongLines(kc, source);
  if (wrong.length > 0) {
    throw fail(
      'CommandFailed',
      `${hbaFile} is as it was before, but the source does not accept it and keeps the fence: ${wrong.join('; ')}; put these lines right`,
    );
  }
  await reload(kc, source);
}

/** What is wrong in pg_hba.conf as it lies there. With one wrong line the server reads none of it, and says so in its log only. */
async function wrongLines(kc: KubeConfig, source: ServerRef): Promise<string[]> {
  return await sqlJson<string[]>(
    kc,
    source,
    `SELECT coalesce(json_agg(format('line %s: %s', line_number, error)), '[]') FROM pg_hba_file_rules WHERE error IS NOT NULL`,
  );
}

async function changeHba(
  kc: KubeConfig,
  source: ServerRef,
  what: 'raise' | 'lift',
  hbaFile: string,
  upgradeId: string,
  lines: string,
): Promise<string> {
  const text = Buffer.from(lines);
  const { code, stdout, stderr } = await execInPod(
    kc,
    source.pod,
    ['bash', '-c', script('fence.sh'), 'pgleap', ...serverArgs(source), what, hbaFile, upgradeId, String(text.length)],
    { stdin: text },
  );
  if (code === 0) return stdout.toString('utf8').trim();
  const where = `${source.pod.namespace}/${source.pod.name}`;
  if (code === 75) throw fail('StreamBroken', `in ${where} ${stderr.trim()}`);
  if (code === 73)
    throw fail(
      'Locked',
      `in ${where} ${stderr.trim()}; undo that upgrade first: pgleap recover ${source.pod.namespace}/WORKLOAD`,
    );
  if (code === 74) throw fail('WrongWorld', `in ${where} ${stderr.trim()}; put pg_hba.conf right by hand`);
  throw fail('CommandFailed', `could not ${what} the fence in ${where}: ${stderr.trim().slice(-1000)}`);
}

/**
 * Resolves when new sessions are judged by the file of now: a session's own load time is that of the postmaster it was born
 * from, and the postmaster reads both files at once.
 */
async function reload(kc: KubeConfig, source: ServerRef): Promise<void> {
  const [before = ''] = (await sqlText(kc, source, `SELECT clock_timestamp(); SELECT pg_reload_conf();`)).split('\n');
  const loaded = await poll(
    async () => {
      const now = await sqlText(kc, source, `SELECT pg_conf_load_time() >= :'before'::timestamptz`, {
        variables: { before },
      });
      return now.trim() === 't' ? true : undefined;
    },
    { timeoutMs: 15_000 },
  );
  if (loaded === undefined) throw fail('NotReady', 'the source did not read its configuration again within 15 s');
}
