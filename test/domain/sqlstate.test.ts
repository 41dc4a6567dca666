import * as fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { ImportError } from '../../src/domain/facts.ts';
import { isServerGone, mayPass, psqlErrors, withoutRows } from '../../src/domain/sqlstate.ts';

/** What psql 18.4 wrote, word for word, for each kind of trouble. */
const stderr = `psql:<stdin>:25: WARNING:  01P01: setting an MD5-encrypted password
DETAIL:  MD5 password support is deprecated and will be removed in a future release of PostgreSQL.
HINT:  Refer to the PostgreSQL documentation for details about migrating to another password type.
LOCATION:  encrypt_password, crypt.c:181
psql:<stdin>:28: ERROR:  42710: role "postgres" already exists
LOCATION:  CreateRole, user.c:375
psql:<stdin>:99: ERROR:  23505: duplicate key value violates unique constraint "t_pkey"
DETAIL:  Key (a)=(1
ERROR:  not one
x) already exists.
CONTEXT:  COPY t, line 2
SCHEMA NAME:  public
TABLE NAME:  t
CONSTRAINT NAME:  t_pkey
LOCATION:  _bt_check_unique, nbtinsert.c:666
psql:<stdin>:120: ERROR:  42704: role "two
lines" does not exist
LOCATION:  get_role_oid, acl.c:5500
psql:<stdin>:200: invalid command \\restrict
psql:<stdin>:300: FATAL:  57P01: terminating connection due to administrator command
LOCATION:  ProcessInterrupts, postgres.c:3300
psql:<stdin>:301: error: connection to server was lost
`;

function read(pieces: string[]): ImportError[] {
  const errors: ImportError[] = [];
  const parser = psqlErrors((error) => errors.push(error));
  for (const piece of pieces) parser.push(piece);
  parser.end();
  return errors;
}

describe('psql’s errors', () => {
  it('are read with SQLSTATE, line and the whole message', () => {
    expect(read([stderr])).toEqual([
      { sqlstate: '42710', message: 'role "postgres" already exists', line: 28 },
      { sqlstate: '23505', message: '(words that may quote a row are left out)', line: 99 },
      // Inside a detail, yet it looks like an error: rather one too many than one too few.
      { sqlstate: '?', message: '(words that may quote a row are left out)', line: 0 },
      { sqlstate: '42704', message: 'role "two\nlines" does not exist', line: 120 },
      { sqlstate: '?', message: '(words that may quote a row are left out)', line: 200 },
      { sqlstate: '57P01', message: 'terminating connection due to administrator command', line: 300 },
      { sqlstate: '?', message: 'error: connection to server was lost', line: 301 },
    ]);
  });

  it('are the same however the text is cut', () => {
    const whole = read([stderr]);
    fc.assert(
      fc.property(fc.array(fc.nat(stderr.length), { maxLength: 20 }), (cuts) => {
        const at = [0, ...cuts.sort((a, b) => a - b), stderr.length];
        expect(read(at.slice(1).map((end, index) => stderr.slice(at[index], end)))).toEqual(whole);
      }),
    );
  });

  it('are counted each, whatever their words', () => {
    const word = fc.string({ unit: 'grapheme', maxLength: 40 }).map((text) => text.replaceAll(/[\r\n]/g, ' '));
    fc.assert(
      fc.property(fc.array(word), (messages) => {
        const text = messages
          .map((message, index) => `psql:<stdin>:${index + 1}: ERROR:  42P01: ${message}\nLOCATION:  f, f.c:1\n`)
          .join('');
        const errors = read([text]);
        expect(errors.map(({ line }) => line)).toEqual(messages.map((_, index) => index + 1));
        expect(errors.map(({ message }) => message)).toEqual(messages);
      }),
    );
  });

  it('that nobody understands still count', () => {
    expect(read(['something unheard of'])).toEqual([
      { sqlstate: '?', message: '(words that may quote a row are left out)', line: 0 },
    ]);
    expect(read(['pgleap: psql ended with 2\n'])).toEqual([]);
    expect(read([''])).toEqual([]);
  });

  it.each([
    [
      '22P02: invalid input syntax for type integer: "canary"',
      'int4in, numutils.c:1',
      'invalid input syntax for type integer',
    ],
    [
      '22008: date/time field value out of range: "canary\nof two lines"',
      'f, datetime.c:1',
      'date/time field value out of range',
    ],
    ['42601: syntax error at or near "canary"', 'scanner_yyerror, scan.l:1', 'syntax error at or near'],
    ['23514: canary is no good value', 'exec_stmt_raise, pl_exec.c:3911', undefined],
    ['P0001: canary is no good value', 'exec_stmt_raise, pl_exec.c:3911', undefined],
    ['XX000: parse error near canary', 'f, lwgeom.c:1', undefined],
    [
      '23505: could not create unique index "i"\nDETAIL:  Key (a)=(canary) is duplicated.',
      'f, tuplesort.c:1',
      'could not create unique index "i"',
    ],
  ])('never tell a row’s value: %s', (text, location, says = '(words that may quote a row are left out)') => {
    const stderrOf = `psql:<stdin>:7: ERROR:  ${text}\nLOCATION:  ${location}\n`;
    expect(read([stderrOf])).toEqual([{ sqlstate: text.slice(0, 5), message: says, line: 7 }]);
    expect(withoutRows(stderrOf)).toBe(`ERROR: ${text.slice(0, 5)}: ${says}`);
  });

  it('of other programs are told without the server’s details', () => {
    const text =
      'vacuumdb: error: processing of database "shop" failed: ERROR:  invalid input syntax: "canary"\nDETAIL:  canary\n' +
      'pgleap: psql ended with 3\nSTATEMENT:  COPY t (canary)\npg_dump: error: connection to server was lost\n';
    expect(withoutRows(text)).toBe(
      'vacuumdb: error: processing of database "shop" failed: ERROR: (words that may quote a row are left out)\n' +
        'pgleap: psql ended with 3\npg_dump: error: connection to server was lost',
    );
  });

  // As psql 18 says it of a script in a file, of one on stdin with -f - and without.
  it.each(['psql:rows.sql:12: ', 'psql:<stdin>:1: ', ''])('tell that the server is gone in the middle: %s', (place) => {
    const error = place === '' ? '' : 'error: ';
    const text =
      `${place}server closed the connection unexpectedly\n\tThis probably means the server terminated abnormally\n` +
      `\tbefore or while processing the request.\n${place}${error}connection to server was lost\n`;
    expect(withoutRows(text)).toBe('server closed the connection unexpectedly\nconnection to server was lost');
    for (const line of text.split('\n').filter((one) => !one.startsWith('\t') && one !== '')) {
      expect(isServerGone(withoutRows(line)), line).toBe(true);
    }
    const reset = `${place}could not receive data from server: canary`;
    expect(withoutRows(reset)).toBe('could not receive data from server');
    expect(isServerGone(withoutRows(reset))).toBe(true);
  });

  it.each([
    ['psql:rows.sql:1: ERROR:  42P01: relation "r" does not exist\nLOCATION:  f, parse_relation.c:1\n', false],
    [
      'psql:<stdin>:1: FATAL:  57P01: terminating connection due to administrator command\nLOCATION:  f, postgres.c:1\n',
      true,
    ],
    ['psql: error: connection to server at "10.0.0.1", port 5432 failed: Connection refused\n', true],
    ['pg_dump: error: query failed: server closed the connection unexpectedly\n', true],
    ['pg_dump: error: connection to server was lost\n', true],
    ['grep: lines: No such file or directory\n', false],
  ])('tell a lost server from other ends: %s', (text, gone) => {
    expect(isServerGone(withoutRows(text))).toBe(gone);
  });

  it('do not keep a row of a megabyte', () => {
    const [error] = read([`psql:<stdin>:1: ERROR:  22P02: invalid input: "${'x'.repeat(2_000_000)}`]);
    expect(error?.message.length).toBeLessThanOrEqual(500);
  });
});

describe('what may pass', () => {
  const bootstrap = { role: 'post"gres', database: 'postgres' };
  it.each([
    ['42710', 'role "post"gres" already exists', true],
    ['42P04', 'database "postgres" already exists', true],
    ['42710', 'role "postgres" already exists', false],
    ['42710', 'extension "post"gres" already exists', false],
    ['42P04', 'database "shop" already exists', false],
    ['42P04', 'role "post"gres" already exists', false],
    ['42P06', 'schema "public" already exists', false],
    ['?', 'role "post"gres" already exists', false],
  ])('%s %s: %s', (sqlstate, message, passes) => {
    expect(mayPass({ sqlstate, message, line: 1 }, bootstrap)).toBe(passes);
  });
});
