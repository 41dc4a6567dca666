import type { KubeConfig } from '@kubernetes/client-node';
import { readFileSync } from 'node:fs';
import type { ServerRef } from '../../domain/facts.ts';
import { redact } from '../../domain/redact.ts';
import { withoutRows } from '../../domain/sqlstate.ts';
import { fail } from '../errors.ts';
import { execInPod } from '../kubernetes/exec.ts';

/*
 * SQL by the psql of a pod: over its server's own socket, or from the candidate to the source over TCP. Values come as psql
 * variables, quoted by psql (:'name', :"name") or by format('%I', '%L') in SQL; results come back as JSON.
 */

/** The script of this folder, after what all of them begin with. */
export function script(name: string): string {
  return `${read('prelude.sh')}\n${read(name)}`;
}

function read(file: string): string {
  return readFileSync(new URL(file, import.meta.url), 'utf8');
}

/**
 * When a server's present life began. After a crash of one of its processes the postmaster stays, and begins all others anew, with
 * unlogged tables emptied: the checkpointer tells.
 */
export const lifeBegan = `greatest(pg_postmaster_start_time(),
  (SELECT max(backend_start) FROM pg_stat_activity WHERE backend_type = 'checkpointer'))`;

/** First arguments of every script. */
export function serverArgs(server: ServerRef): string[] {
  return [server.host ?? '', String(server.port), server.superuser];
}

export interface SqlOptions {
  /** Default postgres. */
  database?: string;
  variables?: Record<string, string>;
  /** statement_timeout; default 60 s. */
  timeoutMs?: number;
  /** Default: it may not write. */
  write?: boolean;
  /** Keep the search_path of role and database; default: empty, so that nothing but what is named is found. */
  ownSearchPath?: boolean;
}

const runner = `
database="$1" bytes="$2" options="$3" seconds="$4"
shift 4
text=$(input "$bytes")
export PGDATABASE="$database" PGOPTIONS="$options"
# A long answer that nobody takes any more must not keep its session.
sql "$@" <<<"$text" | timeout "$seconds" cat
`;

/** Runs SQL and returns its lines. Throws CommandFailed with the server's message, Unreachable when no session came about. */
export async function sqlText(
  kc: KubeConfig,
  server: ServerRef,
  sql: string,
  options: SqlOptions = {},
): Promise<string> {
  const limit = options.timeoutMs ?? 60_000;
  const connectionMs = limit + 30_000;
  const text = Buffer.from(sql);
  const settings = [
    'client_min_messages=warning',
    'lc_messages=C',
    `statement_timeout=${limit}`,
    'lock_timeout=10s',
    `default_transaction_read_only=${options.write === true ? 'off' : 'on'}`,
    ...(options.ownSearchPath === true ? [] : ['search_path=']),
  ];
  const variables = Object.entries(options.variables ?? {}).flatMap(([name, value]) => ['-v', `${name}=${value}`]);
  const { code, stdout, stderr } = await execInPod(
    kc,
    server.pod,
    [
      'bash',
      '-c',
      `${read('prelude.sh')}\n${runner}`,
      'pgleap',
      ...serverArgs(server),
      options.database ?? 'postgres',
      String(text.length),
      settings.map((setting) => `-c ${setting}`).join(' '),
      String(Math.ceil(connectionMs / 1000) + 5),
      ...variables,
    ],
    { stdin: text, timeoutMs: connectionMs },
  );
  if (code === 0) return stdout.toString('utf8');
  throw sqlFailure(server, code, stderr);
}

/**
 * Like sqlText, for SQL that gives one JSON value. What it holds is the caller's to say. CommandFailed for what is no JSON,
 * without it: it may be rows.
 */
export async function sqlJson<T>(kc: KubeConfig, server: ServerRef, sql: string, options: SqlOptions = {}): Promise<T> {
  const text = await sqlText(kc, server, sql, options);
  try {
    return JSON.parse(text);
  } catch {
    const { namespace, name } = server.pod;
    throw fail('CommandFailed', `psql in ${namespace}/${name} gave ${text.length} characters that are not the result`);
  }
}

/** What psql's exit code and words mean. */
export function sqlFailure(server: ServerRef, code: number, stderr: string): Error {
  const where = `${server.role} ${server.pod.namespace}/${server.pod.name}${server.host === null ? '' : ` to ${server.host}`}`;
  const text = redact(stderr.trim());
  const says = redact(withoutRows(stderr)).slice(-1500);
  if (code === 75) return fail('StreamBroken', `${where}: ${says}`);
  if (code === 127) {
    return fail(
      'CommandFailed',
      `bash or psql is missing in ${where}: pgleap needs an image with both, as the official ones are`,
    );
  }
  if (/password authentication failed|no password supplied|no pg_hba\.conf entry|pg_hba\.conf rejects/.test(text)) {
    return fail('AccessDenied', `${where}: ${says}`);
  }
  if (/No space left on device|could not (write|extend) file/.test(text)) return fail('NoSpace', `${where}: ${says}`);
  // The first file that a session reads, whatever language the words are in.
  if (server.role === 'candidate' && text.includes('global/pg_filenode.map'))
    return fail('ScratchLost', `the data of the server is gone in ${where}: ${says}`);
  if (code === 2) return fail('Unreachable', `no session with ${where}: ${says}`);
  return fail('CommandFailed', `psql in ${where} ended with ${code}: ${says}`);
}
