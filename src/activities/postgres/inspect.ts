import type { KubeConfig } from '@kubernetes/client-node';
import type { Check } from '../../domain/checks.ts';
import type { DatabaseFact, ServerRef, SourceFacts } from '../../domain/facts.ts';
import type { Spec } from '../../domain/spec.ts';
import { majorOf, majorOfImage } from '../../domain/versions.ts';
import { fail, isFailure, messageOf } from '../errors.ts';
import { execInPod } from '../kubernetes/exec.ts';
import { applies, checksSql, sourceChecks, type SourceCheck } from './checks.ts';
import { sqlJson, sqlText } from './psql.ts';

interface Basics {
  versionNum: number;
  systemIdentifier: string;
  dataDirectory: string;
  hbaFile: string;
  databases: string[];
  bytes: number;
  roles: number;
  preload: string[];
  encoding: string;
  locale: string;
}

const basicsSql = `
SELECT json_build_object(
  'versionNum', current_setting('server_version_num')::int,
  'systemIdentifier', (SELECT system_identifier::text FROM pg_control_system()),
  'dataDirectory', current_setting('data_directory'),
  'hbaFile', current_setting('hba_file'),
  'databases', (SELECT json_agg(datname ORDER BY datname) FROM pg_database WHERE datallowconn AND datconnlimit <> -2),
  'bytes', (SELECT sum(pg_database_size(oid)) FROM pg_database WHERE datconnlimit <> -2),
  'roles', (SELECT count(*) FROM pg_roles WHERE oid >= 16384 OR oid = 10),
  'preload', (SELECT coalesce(json_agg(DISTINCT trim(item)), '[]') FROM pg_settings, regexp_split_to_table(setting, ',') AS item
    WHERE name IN ('shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries') AND trim(item) <> ''),
  'encoding', (SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname = 'postgres'),
  'locale', (SELECT datcollate FROM pg_database WHERE datname = 'postgres'))`;

const countsSql = `
SELECT json_build_object(
  'tables', (SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'),
  'extensions', (SELECT coalesce(json_agg(extname), '[]') FROM pg_extension));`;

/** Asks the running source over its own socket. Nothing there is changed. */
export async function inspectSource(
  kc: KubeConfig,
  arg: { spec: Spec; database: DatabaseFact },
): Promise<{ facts: SourceFacts | null; checks: Check[] }> {
  const { spec, database } = arg;
  const server: ServerRef = {
    role: 'source',
    pod: database.pod,
    superuser: database.superuser,
    host: null,
    port: database.port,
  };
  let basics: Basics;
  try {
    basics = await sqlJson<Basics>(kc, server, basicsSql);
  } catch (error) {
    if (!isFailure(error, 'CommandFailed', 'AccessDenied', 'Unreachable')) throw error;
    const check: Check = {
      id: 'source.answers',
      status: 'FAILED',
      message: `the source does not answer: ${messageOf(error)}`,
      remedy: `see that psql -U ${server.superuser} works in pod ${server.pod.namespace}/${server.pod.name}`,
    };
    return { facts: null, checks: [check] };
  }
  const source = majorOf(basics.versionNum);
  // Where the target is unknown or not newer the plan refuses it by check target.major; these checks then speak of the source only.
  const target = spec.target.major ?? majorOfImage(spec.target.image);
  const { found, tables, extensions } = await runChecks(kc, server, basics.databases, source, target ?? source);
  const checks = [...found, await hbaCheck(kc, server, basics)];
  const probes = await timeProbes(kc, server, spec.probes);
  checks.push(...probes.checks);
  const { databases, ...rest } = basics;
  return {
    facts: {
      ...rest,
      major: source,
      databases: databases.length,
      tables,
      extensions: [...new Set(extensions)].sort(),
      probeMs: probes.ms,
    },
    checks,
  };
}

async function runChecks(
  kc: KubeConfig,
  server: ServerRef,
  databases: string[],
  source: number,
  target: number,
): Promise<{ found: Check[]; tables: number; extensions: string[] }> {
  const active = sourceChecks.filter((check) => applies(check, source, target));
  const results = new Map<string, { count: number; some: string[] }>();
  const extensions: string[] = [];
  let tables = 0;
  const take = (text: string, database: string | null) => {
    for (const line of text.trim().split('\n')) {
      const one: { id: string; count: number; some: string[] | null } = JSON.parse(line);
      const known = results.get(one.id) ?? { count: 0, some: [] };
      known.count += one.count;
      known.some.push(...(one.some ?? []).map((thing) => (database === null ? thing : `${thing} in ${database}`)));
      results.set(one.id, known);
    }
  };
  const options = { variables: { target: String(target) }, timeoutMs: 600_000 };
  const serverWide = active.filter(({ scope }) => scope === 'server');
  take(await sqlText(kc, server, checksSql(serverWide), options), null);
  const perDatabase = checksSql(active.filter(({ scope }) => scope === 'database'));
  // A few at a time: each is a session of the source.
  const texts = new Map<string, string>();
  const left = databases.values();
  const worker = async () => {
    for (const database of left) {
      texts.set(database, await sqlText(kc, server, `${countsSql}\n${perDatabase}`, { ...options, database }));
    }
  };
  await Promise.all([worker(), worker(), worker(), worker()]);
  for (const database of databases) {
    const text = texts.get(database) ?? '';
    const end = text.indexOf('\n');
    const counts: { tables: number; extensions: string[] } = JSON.parse(text.slice(0, end));
    tables += counts.tables;
    extensions.push(...counts.extensions);
    take(text.slice(end + 1), database);
  }
  const found = sourceChecks.map((check) => checkOf(check, active.includes(check), results.get(check.id)));
  return { found, tables, extensions };
}

function checkOf(check: SourceCheck, active: boolean, found: { count: number; some: string[] } | undefined): Check {
  const { id, things, status, remedy } = check;
  if (!active) return { id, status: 'SKIPPED', message: `not between these versions: ${things}` };
  if (found === undefined || found.count === 0) return { id, status: 'PASSED', message: `no ${things}` };
  const some = found.some.slice(0, 5).join(', ');
  const more = found.count > 5 ? ` and ${found.count - 5} more` : '';
  return { id, status, message: `${found.count} ${things}: ${some}${more}`, remedy };
}

const hbaScript = `
file="$1" data="$2"
if [ ! -f "$file" ] || [ -L "$file" ]; then echo 'is no regular file'; exit; fi
case "$(readlink -f "$file")" in "$(readlink -f "$data")"/*) ;; *) echo "lies outside of the data directory $data"; exit ;; esac
if grep -qF " $file " /proc/self/mountinfo; then echo 'is mounted by itself'; exit; fi
if [ ! -w "$file" ] || [ ! -w "$(dirname "$file")" ]; then echo 'cannot be written'; exit; fi
read -r first <"$file"
case "$first" in '# pgleap fence '*) echo "is the fence of another upgrade ($first)"; exit ;; esac
echo ok
`;

/** The fence is a file put in the place of pg_hba.conf: that must be possible before anything else is begun. */
async function hbaCheck(kc: KubeConfig, server: ServerRef, basics: Basics): Promise<Check> {
  const id = 'source.hba-writable';
  const { code, stdout, stderr } = await execInPod(kc, server.pod, [
    'sh',
    '-c',
    hbaScript,
    'sh',
    basics.hbaFile,
    basics.dataDirectory,
  ]);
  if (code !== 0) throw fail('CommandFailed', `could not look at ${basics.hbaFile}: ${stderr.trim()}`);
  const says = stdout.toString('utf8').trim();
  return says === 'ok'
    ? { id, status: 'PASSED', message: `${basics.hbaFile} can be replaced by the fence` }
    : {
        id,
        status: 'FAILED',
        message: `${basics.hbaFile} ${says}`,
        remedy:
          'keep pg_hba.conf as a plain file in the data directory; undo an unfinished upgrade first as docs/rollback.md says',
      };
}

/** Runs each probe once, read only, and measures it in psql: the way there does not count. */
export async function timeProbes(
  kc: KubeConfig,
  server: ServerRef,
  probes: Spec['probes'],
): Promise<{ ms: number[]; checks: Check[] }> {
  const ms: number[] = [];
  const checks: Check[] = [];
  for (const { database, query } of probes) {
    try {
      // \gexec hands the text to the server as it is: psql's own commands in it mean nothing.
      const text = await sqlText(kc, server, `\\timing on\n\\o /dev/null\nSELECT :'query' \\gexec\n`, {
        database,
        variables: { query },
        ownSearchPath: true,
        timeoutMs: 60_000,
      });
      // The query's time, and that of the statement that only holds its text.
      const times = [...text.matchAll(/^Time: ([\d.]+) ms/gm)].map(([, time]) => Number(time));
      ms.push(Math.max(...times));
    } catch (error) {
      if (!isFailure(error, 'CommandFailed', 'Unreachable')) throw error;
      checks.push({
        id: 'source.probes',
        status: 'FAILED',
        message: `a probe in database ${database} failed: ${messageOf(error)}`,
        remedy: 'correct the query in probes; it runs read only',
      });
    }
  }
  if (checks.length === 0)
    checks.push({ id: 'source.probes', status: 'PASSED', message: `${ms.length} probes answer` });
  return { ms, checks };
}
