/**
 * What psql says on stderr while it reads a dump, as errors, and which of them may pass. psql goes on after an error and
 * ends with 0, so this reading is what tells a whole import from one with holes.
 */
import type { ImportError } from './facts.ts';

/** Lines that follow a message and belong to it. LOCATION ends it, because psql runs with VERBOSITY=verbose. */
const detail =
  /^(DETAIL|HINT|QUERY|CONTEXT|LOCATION|STATEMENT|LINE \d+|SCHEMA NAME|TABLE NAME|COLUMN NAME|CONSTRAINT NAME|DATATYPE NAME):/;
const notice = /^(?:psql:(?:.*?):(\d+): )?(WARNING|NOTICE|INFO|LOG|DEBUG|ERROR|FATAL|PANIC):\s+(.*)$/s;
const prefixed = /^psql:.*?:(\d+): (.*)$/s;

/** Longest message that is kept; a failing row or statement can be megabytes long. */
const longest = 500;

/** Classes whose messages are made of names of objects; a syntax error quotes what it met. */
const namesOnly = /^(0A|08|23|25|28|2B|3D|3F|40|42(?!601)|53|54|55|57|58)/;
/** Classes whose messages quote a value, if any, after words that never change. */
const quotesLast = /^(22|42601)/;
/** Where a message was put together by a function of somebody's: its words can be anything, whatever its SQLSTATE. */
const raised = /, (pl_|plpy|plperl|pltcl|plv8|plr|pllua|pljava)/;
/** What psql says of itself. */
const connection = /^(psql: )?(error: )?connection to server/;
/** Lines of the programs that the scripts call. */
const ours =
  /^(psql: |connection to server|(pg_\w+|pgleap|vacuumdb|zstd|gzip|pigz|bash|sh|env|\.\/script|cat|cp|dd|grep|head|mkfifo|mv|rm|sed|sha512sum|sort|stat|sync|tail|tee|timeout|xargs): )/;

/** libpq's own, which psql tells in the middle of a script without its name or behind the place in it. No more than these words is told. */
const lost =
  /^(?:psql:.*?:\d+: )?(?:error: )?(server closed the connection unexpectedly|connection to server was lost|could not (?:receive data from|send data to) server)(?:: .*)?$/;
/** libpq's words for a session that ended with its server, and the server's own for one that ends or is not up yet. */
const serverGone =
  /server closed the connection unexpectedly|connection to server was lost|could not (receive data from|send data to) server|Connection (refused|reset|timed out)|No route to host|Is the server running|terminating connection (due to administrator command|because of (unexpected|crash))|the database system is (starting up|shutting down|in recovery mode|not yet accepting)/;

const withheld = '(words that may quote a row are left out)';

/** An error's words without what may be a row's value: values stay where they are. `location` as psql gives it. */
function withoutValues(sqlstate: string, message: string, location: string | null): string {
  if (location !== null && !raised.test(location)) {
    if (namesOnly.test(sqlstate)) return message;
    if (quotesLast.test(sqlstate)) return (/^[^"':]*/.exec(message)?.[0] ?? '').trimEnd();
  }
  return connection.test(message) ? message : withheld;
}

/**
 * What programs said on stderr, for people: their own words as they are, the server's without what may be a row's value,
 * details and statements left out.
 */
export function withoutRows(stderr: string): string {
  const kept: string[] = [];
  const lines = stderr.split('\n');
  for (const [index, line] of lines.entries()) {
    const found = /^(?:psql:.*?:\d+: )?(ERROR|FATAL|PANIC):\s+(?:([0-9A-Z]{5}): )?(.*)$/.exec(line);
    if (found !== null) {
      const [, level = '', sqlstate = '?', text = ''] = found;
      const after = lines.slice(index + 1);
      const next = after.findIndex((one) => /^(psql:.*?:\d+: )?(ERROR|FATAL|PANIC):/.test(one));
      const location = after.slice(0, next === -1 ? undefined : next).find((one) => one.startsWith('LOCATION:'));
      kept.push(`${level}: ${sqlstate}: ${withoutValues(sqlstate, text, location ?? null)}`);
    } else if (/^vacuumdb: .*ERROR: /.test(line)) {
      // It passes the server's words on without their SQLSTATE.
      kept.push(line.replace(/ERROR: .*/, `ERROR: ${withheld}`));
    } else if (ours.test(line)) {
      kept.push(line);
    } else {
      const [, words] = lost.exec(line) ?? [];
      if (words !== undefined) kept.push(words);
    }
  }
  return kept.join('\n');
}

/** Whether programs that said this, as `withoutRows` gives it, lost their server: what they did is to be begun again. */
export function isServerGone(says: string): boolean {
  return serverGone.test(says);
}

/**
 * Reads stderr a piece at a time, cut anywhere, and gives each error to `onError` once it is complete. Warnings and notices
 * are passed over; anything that is not understood counts as an error with the SQLSTATE `?`, because silence would hide it.
 * Messages are without what may be a row's value.
 */
export function psqlErrors(onError: (error: ImportError) => void): { push(text: string): void; end(): void } {
  let rest = '';
  let open: ImportError | null = null;
  // Inside a warning, a detail, or the error's own further lines.
  let quiet = false;

  const close = (location: string | null = null) => {
    if (open !== null) onError({ ...open, message: withoutValues(open.sqlstate, open.message, location) });
    open = null;
  };
  const begin = (sqlstate: string, message: string, line: number) => {
    close();
    open = { sqlstate, message: message.slice(0, longest), line };
  };
  const take = (line: string) => {
    const found = notice.exec(line);
    if (found !== null) {
      const [, at = '0', level = '', text = ''] = found;
      quiet = level !== 'ERROR' && level !== 'FATAL' && level !== 'PANIC';
      if (quiet) {
        close();
        return;
      }
      const coded = /^([0-9A-Z]{5}): (.*)$/s.exec(text);
      begin(coded?.[1] ?? '?', coded?.[2] ?? text, Number(at));
      return;
    }
    if (detail.test(line)) {
      if (line.startsWith('LOCATION:')) {
        close(line);
        quiet = false;
      } else {
        quiet = true;
      }
      return;
    }
    const said = prefixed.exec(line);
    if (said !== null) {
      quiet = false;
      begin('?', said[2] ?? '', Number(said[1]));
      return;
    }
    // Our own script speaks only when psql did.
    if (line === '' || line.startsWith('pgleap: ') || quiet) return;
    if (open === null) begin('?', line, 0);
    else if (open.message.length < longest) open.message = `${open.message}\n${line}`.slice(0, longest);
  };

  return {
    push(text) {
      const lines = (rest + text).split('\n');
      rest = lines.pop() ?? '';
      // A line without an end must not grow without one either.
      if (rest.length > 1_000_000) rest = rest.slice(0, 2 * longest);
      for (const line of lines) take(line.endsWith('\r') ? line.slice(0, -1) : line);
    },
    end() {
      if (rest !== '') take(rest);
      rest = '';
      close();
    },
  };
}

/** Only these two errors may pass: every server has a bootstrap role and database before a dump comes. */
export function mayPass(error: ImportError, bootstrap: { role: string; database: string }): boolean {
  return (
    (error.sqlstate === '42710' && error.message === `role "${bootstrap.role}" already exists`) ||
    (error.sqlstate === '42P04' && error.message === `database "${bootstrap.database}" already exists`)
  );
}
