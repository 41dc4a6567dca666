import type { KubeConfig } from '@kubernetes/client-node';
import type { Check } from '../../domain/checks.ts';
import type { ServerRef } from '../../domain/facts.ts';
import { bytesText } from '../../domain/text.ts';
import { cameOutBefore, majorOf, tripsOverColumnMarks, versionText } from '../../domain/versions.ts';
import { poll } from '../context.ts';
import { fail, isFailure, messageOf } from '../errors.ts';
import { execInPod } from '../kubernetes/exec.ts';
import type { PostgresActivities } from '../types.ts';
import { sqlJson } from './psql.ts';

const restartMs = 20_000;

interface SourceSide {
  /** The address that the source sees. */
  client: string | null;
  hasPassword: boolean;
  systemIdentifier: string;
  versionNum: number;
  /** Of the database postgres. */
  initdb: string;
  databases: { name: string; provider: string; collate: string; ctype: string }[];
  /** Undotted names that roles and databases set. */
  roleSettings: string[];
  fileSettings: string[];
}

interface TargetSide {
  versionNum: number;
  bootstrap: string;
  listen: string;
  initdb: string;
  settings: string[];
  extensions: Record<string, string>;
  locales: string[];
  icu: boolean;
  missingLibraries: string[];
}

const initdbSql = `(SELECT format('encoding %s, collate %s, ctype %s', pg_encoding_to_char(encoding), datcollate, datctype)
  FROM pg_database WHERE datname = 'postgres')`;

const sourceSql = `
SELECT json_build_object(
  'systemIdentifier', (SELECT system_identifier::text FROM pg_control_system()),
  'client', host(inet_client_addr()),
  'hasPassword', (SELECT rolpassword IS NOT NULL FROM pg_authid WHERE rolname = current_user),
  'versionNum', current_setting('server_version_num')::int,
  'initdb', ${initdbSql},
  'databases', (SELECT json_agg(json_build_object('name', datname, 'provider', coalesce(to_jsonb(d) ->> 'datlocprovider', 'c'),
    'collate', datcollate, 'ctype', datctype)) FROM pg_database AS d WHERE datname <> 'template0'),
  'roleSettings', (SELECT coalesce(json_agg(DISTINCT lower(split_part(item, '=', 1))), '[]') FROM pg_db_role_setting, unnest(setconfig) AS item
    WHERE split_part(item, '=', 1) !~ '\\.'),
  'fileSettings', (SELECT coalesce(json_agg(DISTINCT lower(name)), '[]') FROM pg_file_settings WHERE name !~ '\\.'))`;

const targetSql = `
SELECT json_build_object(
  'versionNum', current_setting('server_version_num')::int,
  'bootstrap', (SELECT rolname FROM pg_roles WHERE oid = 10),
  'listen', current_setting('listen_addresses'),
  'initdb', ${initdbSql},
  'settings', (SELECT json_agg(lower(name)) FROM pg_settings),
  'extensions', (SELECT json_object_agg(name, default_version) FROM pg_available_extensions),
  'locales', (SELECT json_agg(DISTINCT collcollate) FROM pg_collation WHERE collprovider = 'c' AND collcollate IS NOT NULL),
  'icu', EXISTS (SELECT FROM pg_collation WHERE collprovider = 'i'),
  'missingLibraries', (SELECT coalesce(json_agg(name), '[]') FROM json_array_elements_text(:'libraries'::json) AS name
    WHERE (pg_stat_file(CASE WHEN name LIKE '/%' THEN name ELSE (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR') || '/'
      || replace(name, '$libdir/', '') END || CASE WHEN name LIKE '%.so' THEN '' ELSE '.so' END, true)).size IS NULL))`;

const databaseSql = `
SELECT json_build_object(
  'extensions', (SELECT coalesce(json_agg(json_build_object('name', extname, 'version', extversion)), '[]') FROM pg_extension),
  'marked', (SELECT count(*) FROM pg_attribute WHERE attrelid >= 16384 AND EXISTS
    (SELECT FROM unnest(attoptions) AS option WHERE starts_with(option, 'pg_attver='))))`;

interface DatabaseSide {
  extensions: { name: string; version: string }[];
  marked: number;
}

/** What the scripts of this folder call. gzip or zstd, one of the two, is asked for apart. */
const tools =
  'psql pg_dump pg_dumpall pg_restore sha512sum sha256sum sha512sum dd head tail tee mkfifo stat sort sed awk grep find xargs flock setsid sync mktemp timeout';
const toolsScript = `
for tool in ${tools}; do command -v "$tool" >/dev/null || echo "$tool"; done
command -v zstd >/dev/null || command -v gzip >/dev/null || echo 'gzip or zstd'
echo "-- $(pg_dumpall --version | sed 's/.* \\([0-9][0-9.]*\\).*/\\1/')"
df -P -k /pgleap | awk 'NR == 2 { print $4 * 1024 }'
df -P -i /pgleap | awk 'NR == 2 { print $4 }'
`;

/** Whether the candidate's login will also pass the fence, which lets in its own address, with a password. */
function loginCheck(
  { source, facts, candidateIp }: Parameters<PostgresActivities['checkCandidate']>[0],
  { systemIdentifier, client, hasPassword }: SourceSide,
): Check {
  const failed = (message: string, remedy: string): Check => ({
    id: 'target.login',
    status: 'FAILED',
    message,
    remedy,
  });
  if (systemIdentifier !== facts.systemIdentifier) {
    return failed(
      `at ${source.host} answers another server than the one planned for (its system identifier differs)`,
      'see what runs at that address, and plan again',
    );
  }
  if (client !== candidateIp) {
    return failed(
      `the source sees the candidate at ${client}, but its pod has the address ${candidateIp}, which is what the fence lets in`,
      'let no proxy or address translation stand between them: take the target’s template and the source out of the service mesh',
    );
  }
  if (!hasPassword) {
    return failed(
      `${source.superuser} has no password in the source, and the fence asks for one`,
      'give it the password of the target template’s POSTGRES_PASSWORD: ALTER ROLE … PASSWORD',
    );
  }
  return passed('target.login', 'the candidate logs in to the source over TCP, from its own address');
}

/** Everything that only the target's image can tell, before anything goes down. */
export async function checkCandidate(
  kc: KubeConfig,
  arg: Parameters<PostgresActivities['checkCandidate']>[0],
): Promise<Check[]> {
  const { source, candidate, facts } = arg;
  let there: SourceSide;
  try {
    there = await reach(() => sqlJson<SourceSide>(kc, source, sourceSql));
  } catch (error) {
    if (!isFailure(error, 'AccessDenied', 'Unreachable', 'CommandFailed')) throw error;
    return [
      {
        id: 'target.login',
        status: 'FAILED',
        message: `the candidate cannot log in to the source: ${messageOf(error)}`,
        remedy:
          'the target template’s POSTGRES_PASSWORD (or POSTGRES_PASSWORD_FILE) must be the source’s superuser password, and pg_hba.conf must let pods in',
      },
    ];
  }
  const here = await sqlJson<TargetSide>(kc, candidate, targetSql, {
    variables: { libraries: JSON.stringify(facts.preload) },
  });
  return [
    loginCheck(arg, there),
    when(here.listen !== '', 'target.fenced', 'FAILED', {
      good: 'the candidate listens on its socket only',
      bad: `the candidate listens on ${here.listen}`,
      remedy: 'take listen_addresses out of the target template’s arguments',
    }),
    ...(await imageChecks(kc, arg, there, here)),
    when(here.bootstrap !== candidate.superuser, 'target.bootstrap-user', 'FAILED', {
      good: `the bootstrap role is ${here.bootstrap} on both sides`,
      bad: `the target’s bootstrap role is ${here.bootstrap}, the source’s is ${candidate.superuser}`,
      remedy: `set POSTGRES_USER of the target’s template to ${candidate.superuser}`,
    }),
    when(here.initdb !== there.initdb, 'target.initdb', 'FAILED', {
      good: `databases postgres and template1: ${here.initdb}`,
      bad: `the target’s initdb makes ${here.initdb}, the source has ${there.initdb}`,
      remedy: 'set POSTGRES_INITDB_ARGS (--encoding, --lc-collate, --lc-ctype) in the spec’s target.patch',
    }),
    ...localeChecks(there, here),
    ...settingChecks(there, here),
    when(here.missingLibraries.length > 0, 'target.preload-loads', 'FAILED', {
      good: facts.preload.length === 0 ? 'nothing is preloaded' : `the image has ${facts.preload.join(', ')}`,
      bad: `the image lacks libraries that the source preloads: ${here.missingLibraries.join(', ')}`,
      remedy: 'use an image that has them, or take them out of the source’s settings first',
    }),
    ...(await databaseChecks(kc, source, there, here)),
  ];
}

/** A server that is just starting again is there in a moment; one that is shut off never is. */
async function reach<T>(look: () => Promise<T>): Promise<T> {
  const found = await poll(
    async () => {
      try {
        return { answer: await look() };
      } catch (error) {
        if (isFailure(error, 'Unreachable')) return undefined;
        throw error;
      }
    },
    { timeoutMs: restartMs },
  );
  return found === undefined ? await look() : found.answer;
}

async function imageChecks(
  kc: KubeConfig,
  arg: Parameters<PostgresActivities['checkCandidate']>[0],
  there: SourceSide,
  here: TargetSide,
): Promise<Check[]> {
  const { candidate, facts } = arg;
  const { code, stdout, stderr } = await execInPod(kc, candidate.pod, ['bash', '-c', toolsScript]);
  if (code !== 0) throw fail('CommandFailed', `could not look at the candidate’s tools: ${stderr.trim()}`);
  const lines = stdout.toString('utf8').trim().split('\n');
  const end = lines.findIndex((line) => line.startsWith('-- '));
  const missing = lines.slice(0, end);
  const [dumper = '', free = '', inodes = ''] = lines.slice(end);
  const client = versionNumOf(dumper.slice(3));
  const [freeBytes, freeInodes] = [Number(free), Number(inodes)];
  // The trial's data and WAL, the dump, and what the fingerprint puts down.
  const needed = Math.ceil(facts.bytes * 1.6) + 256 * 1024 * 1024;
  return [
    when(missing.length > 0, 'target.tools', 'FAILED', {
      good: 'the image has all programs that pgleap calls',
      bad: `the image lacks ${missing.join(', ')}`,
      remedy: 'use an image with bash, coreutils and PostgreSQL’s client programs, as the official ones are',
    }),
    when(majorOf(client) !== majorOf(here.versionNum) || client < there.versionNum, 'target.client-version', 'FAILED', {
      good: `pg_dumpall ${versionText(client)}`,
      bad: `pg_dumpall in the image is ${versionText(client)}, its server ${versionText(here.versionNum)}, the source ${versionText(there.versionNum)}`,
      remedy: 'use an image whose client programs are of its server’s version',
    }),
    when(cameOutBefore(client, there.versionNum) === true, 'target.minor-floor', 'WARNING', {
      good: `${versionText(client)} is not older than the source’s release`,
      bad: `pg_dumpall ${versionText(client)} came out before the source’s ${versionText(there.versionNum)}: it may write out what it does not know`,
      remedy: 'use the newest minor of the target’s major',
    }),
    when(
      freeBytes < needed || (freeInodes > 0 && freeInodes < facts.tables * 4 + 10_000),
      'target.free-space',
      'FAILED',
      {
        good: `${bytesText(freeBytes)} are free on the scratch volume`,
        bad: `the scratch volume has ${bytesText(freeBytes)} and ${freeInodes} inodes free; the trial needs about ${bytesText(needed)}`,
        remedy: 'make the database’s claim larger, or free space in the storage class’s limits',
      },
    ),
  ];
}

function localeChecks(there: SourceSide, here: TargetSide): Check[] {
  const id = 'target.collation-available';
  const known = new Set([...here.locales, 'C', 'POSIX'].map(localeKey));
  const missing = there.databases.flatMap(({ name, provider, collate, ctype }) =>
    provider === 'i' && !here.icu
      ? [`ICU for ${name}`]
      : [collate, ctype].filter((locale) => !known.has(localeKey(locale))).map((locale) => `${locale} for ${name}`),
  );
  return [
    when(missing.length > 0, id, 'FAILED', {
      good: 'the image has the locales of all databases',
      bad: `the image lacks locales: ${[...new Set(missing)].join(', ')}`,
      remedy:
        'use an image with these locales (localedef in a Dockerfile on the official image), or of the same distribution',
    }),
  ];
}

/** `en_US.utf8` and `en_US.UTF-8` are one locale. */
function localeKey(locale: string): string {
  return locale.toLowerCase().replaceAll('-', '');
}

function settingChecks(there: SourceSide, here: TargetSide): Check[] {
  const known = new Set(here.settings);
  const roles = there.roleSettings.filter((name) => !known.has(name));
  const files = there.fileSettings.filter((name) => !known.has(name));
  return [
    when(roles.length > 0, 'target.guc-known', 'FAILED', {
      good: 'the target knows all settings of roles and databases',
      bad: `the target does not know settings of roles or databases: ${roles.join(', ')}`,
      remedy: 'ALTER ROLE … RESET or ALTER DATABASE … RESET them on the source',
    }),
    when(files.length > 0, 'target.file-settings-known', 'WARNING', {
      good: 'the target knows all settings of the source’s files',
      bad: `the target does not know settings of the source’s files, which are left out: ${files.join(', ')}`,
      remedy: 'see that they are not in the target template’s arguments',
    }),
  ];
}

async function databaseChecks(
  kc: KubeConfig,
  source: ServerRef,
  there: SourceSide,
  here: TargetSide,
): Promise<Check[]> {
  const missing = new Set<string>();
  const changing = new Set<string>();
  let columns = 0;
  for (const { name: database } of there.databases) {
    const { extensions, marked } = await sqlJson<DatabaseSide>(kc, source, databaseSql, { database });
    columns += marked;
    for (const { name, version } of extensions) {
      const offered = here.extensions[name];
      if (offered === undefined) missing.add(`${name} (in ${database})`);
      else if (offered !== version) changing.add(`${name} ${version} becomes ${offered}`);
    }
  }
  const target = versionText(here.versionNum);
  return [
    when(columns > 0 && tripsOverColumnMarks(here.versionNum), 'target.column-marks', 'FAILED', {
      good: 'the target’s pg_dump knows what the source keeps with its columns',
      bad:
        `the source keeps a mark (pg_attver) with ${columns} columns, as PostgreSQL since the minors of November 2026 does; ` +
        `pg_dump ${target} is older, and would write out each as an option that no server takes`,
      remedy: `use an image with a minor of ${majorOf(here.versionNum)} that came out with the source’s, or later`,
    }),
    when(missing.size > 0, 'target.extension-available', 'FAILED', {
      good: 'the image has all extensions',
      bad: `the image lacks extensions: ${[...missing].join(', ')}`,
      remedy: 'use an image that has them, or DROP EXTENSION on the source',
    }),
    {
      id: 'target.extension-version',
      status: changing.size > 0 ? 'INFO' : 'PASSED',
      message:
        changing.size > 0
          ? `a restore makes extensions in the target’s version: ${[...changing].join(', ')}`
          : 'extensions keep their versions',
    },
  ];
}

/** `18.4` → 180004. */
function versionNumOf(text: string): number {
  const [major = '0', minor = '0'] = text.split('.');
  return Number(major) * 10_000 + Number(minor);
}

function passed(id: string, message: string): Check {
  return { id, status: 'PASSED', message };
}

function when(
  found: boolean,
  id: string,
  status: 'FAILED' | 'WARNING',
  says: { good: string; bad: string; remedy: string },
): Check {
  return found ? { id, status, message: says.bad, remedy: says.remedy } : passed(id, says.good);
}
