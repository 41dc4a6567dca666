/**
 * A connection to PostgreSQL through one long-lived `psql`, because the example services may bring no dependencies. It loses its
 * connection and comes back as a driver would: what was running fails, the next statement connects again.
 */
import { spawn } from 'node:child_process';
import type { ChildProcessWithoutNullStreams } from 'node:child_process';
import { createInterface } from 'node:readline';
import { log } from './log.ts';

export interface Database {
  /** Rows of one statement; `$1`, `$2` … take `values`. Rejects when it failed or its outcome is unknown. */
  query(sql: string, values?: string[]): Promise<string[][]>;
  close(): void;
}

/** Only ends a wait for a peer that vanished; no statement of the services takes that long. */
const STATEMENT_MS = 10_000;
/** In no value of the example data, other than a tab. */
const SEPARATOR = '\u001f';

interface Waiting {
  marker: string;
  rows: string[][];
  resolve(rows: string[][]): void;
  reject(error: Error): void;
  timer: NodeJS.Timeout;
}

/** `url` as in DATABASE_URL. Nothing connects before the first statement. */
export function openDatabase(url: string, applicationName: string): Database {
  const { hostname, port, username, password, pathname } = new URL(url);
  const env = {
    PATH: process.env['PATH'] ?? '',
    PGHOST: hostname,
    PGPORT: port || '5432',
    PGUSER: decodeURIComponent(username),
    PGPASSWORD: decodeURIComponent(password),
    PGAPPNAME: applicationName,
    PGCONNECT_TIMEOUT: '3',
    PSQLRC: '/dev/null',
  };
  const database = decodeURIComponent(pathname.slice(1)).replaceAll(/['\\]/g, String.raw`\$&`);
  let child: ChildProcessWithoutNullStreams | undefined;
  let waiting: Waiting | undefined;
  let turn: Promise<unknown> = Promise.resolve();
  let statements = 0;
  let down = '';

  function connect(): ChildProcessWithoutNullStreams {
    const psql = spawn('psql', ['-XqAt', '-F', SEPARATOR, `dbname='${database}' tcp_user_timeout=4000`], { env });
    let complaint = '';
    psql.stderr.on('data', (chunk: Buffer) => {
      complaint = `${complaint}${chunk.toString()}`.slice(-2000);
    });
    psql.stdin.on('error', () => {}); // It has ended; `close` tells.
    createInterface({ input: psql.stdout }).on('line', (line) => {
      if (waiting === undefined) return;
      if (!line.startsWith(waiting.marker)) {
        waiting.rows.push(line.split(SEPARATOR));
        return;
      }
      const [, failed, sqlstate] = line.split(' ');
      const done = settle(waiting);
      if (failed === 'true') done.reject(new Error(`SQLSTATE ${sqlstate ?? '?'}`));
      else done.resolve(done.rows);
    });
    psql.on('error', (error) => lost(error.message));
    psql.on('close', () => lost(complaint.trim().replaceAll(/\s*\n\s*/g, '; ')));

    function lost(why: string): void {
      if (child !== psql) return;
      child = undefined;
      const reason = why || 'psql ended';
      if (reason !== down) log('warn', `no connection to PostgreSQL, trying again: ${reason}`);
      down = reason;
      if (waiting !== undefined) settle(waiting).reject(new Error('connection lost'));
    }
    return psql;
  }

  function settle(done: Waiting): Waiting {
    clearTimeout(done.timer);
    waiting = undefined;
    return done;
  }

  function run(sql: string, values: string[]): Promise<string[][]> {
    const psql = (child ??= connect());
    statements += 1;
    const marker = `\u0001${statements}`;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => psql.kill('SIGKILL'), STATEMENT_MS);
      waiting = { marker, rows: [], resolve, reject, timer };
      const bound = values.map((value) => ` ${quoted(value)}`).join('');
      psql.stdin.write(`${sql}\n\\bind${bound} \\g\n\\echo ${quoted(marker)} :ERROR :LAST_ERROR_SQLSTATE\n`);
    });
  }

  return {
    query(sql, values = []) {
      const result = turn
        .then(() => run(sql, values))
        .then((rows) => {
          if (down !== '') log('info', 'connected to PostgreSQL again');
          down = '';
          return rows;
        });
      turn = result.catch(() => {});
      return result;
    },
    close() {
      const psql = child;
      child = undefined;
      psql?.stdin.end();
    },
  };
}

/** An argument of a psql meta-command. */
function quoted(text: string): string {
  return `'${text
    .replaceAll('\\', String.raw`\\`)
    .replaceAll("'", "''")
    .replaceAll('\n', String.raw`\n`)}'`;
}
