import type { KubeConfig } from '@kubernetes/client-node';
import type { CarriedItem, ServerRef, World } from '../../domain/facts.ts';
import { mayHoldSecret } from '../../domain/redact.ts';
import { fail, isFailure, messageOf } from '../errors.ts';
import { execInPod } from '../kubernetes/exec.ts';
import type { PostgresActivities, SavedSettings } from '../types.ts';
import { script, serverArgs, sqlJson, sqlText } from './psql.ts';

/*
 * What an operator changed inside PGDATA and no manifest shows: pg_hba.conf, pg_ident.conf, ALTER SYSTEM, an edited
 * postgresql.conf. Each goes over by itself, accepted by the target, or is refused with the reason.
 */

/** A value of these is a list of names, stored with each name quoted if need be: as one literal it would be one name. */
const lists = new Set([
  'local_preload_libraries',
  'search_path',
  'session_preload_libraries',
  'shared_preload_libraries',
  'temp_tablespaces',
  'unix_socket_directories',
  'output_plugin_libraries',
]);
const libraries = new Set(['shared_preload_libraries', 'session_preload_libraries', 'local_preload_libraries']);
const sslFiles = new Set([
  'ssl_cert_file',
  'ssl_key_file',
  'ssl_ca_file',
  'ssl_crl_file',
  'ssl_dh_params_file',
  'krb_server_keyfile',
]);

/** Never stored and never carried, whatever their value. */
function refusal(name: string, value: string): string | null {
  if (mayHoldSecret(name, value)) {
    return 'it may hold a secret; set it on the target by hand';
  }
  if (
    /^(archive_(mode|command|library|cleanup_command)|restore_command|recovery_.*)$/.test(name) &&
    value !== '' &&
    value !== 'off'
  ) {
    return 'WAL archiving must begin anew for the target: its system identifier is another';
  }
  if (name === 'synchronous_standby_names' && value !== '')
    return 'the target has no standbys: commits would wait for ever';
  if (/^(primary_|promote_trigger_file)/.test(name) && value !== '') return 'it belongs to a standby';
  if (/^(data_directory|config_file|hba_file|ident_file|external_pid_file)$/.test(name)) {
    return 'it names a path of the old server; where files lie is the template’s to say';
  }
  return null;
}

/** From the running source. Values that may be secrets never leave its pod. */
export async function saveSettings(
  kc: KubeConfig,
  arg: Parameters<PostgresActivities['saveSettings']>[0],
): Promise<{ settings: SavedSettings }> {
  const { source, world, sourceFacts } = arg;
  const inside = await sqlJson<{ ident: string; set: { name: string; value: string }[] }>(
    kc,
    source,
    // The last line that sets a name counts, and postgresql.auto.conf is read last.
    `SELECT json_build_object('ident', current_setting('ident_file'), 'set', (SELECT coalesce(json_agg(json_build_object('name', name, 'value', setting)), '[]')
       FROM (SELECT DISTINCT ON (lower(name)) name, setting FROM pg_file_settings
         WHERE starts_with(sourcefile, current_setting('data_directory') || '/') AND name IS NOT NULL ORDER BY lower(name), seqno DESC) AS last))`,
  );
  const settings: SavedSettings = { hba: null, ident: null, autoConf: {}, refused: [] };
  const directory = `${sourceFacts.dataDirectory}/`;
  for (const what of ['hba', 'ident'] as const) {
    const file = what === 'hba' ? sourceFacts.hbaFile : inside.ident;
    if (!file.startsWith(directory)) continue;
    const text = await onFile(kc, source, 'read', file, world);
    const why = /(?:ldapbindpasswd|radiussecrets)\s*=/.test(text)
      ? 'it holds a secret; copy it by hand'
      : /^\s*(?:include|include_if_exists|include_dir)\s|(?:^|\s|,)@\S/m.test(text)
        ? 'it includes other files; copy it and them by hand'
        : null;
    if (why === null) settings[what] = text;
    else settings.refused.push({ name: file.slice(directory.length), why });
  }
  const tls = new Map(inside.set.map(({ name, value }) => [name, value]));
  const tlsInside =
    tls.get('ssl') === 'on' &&
    ['ssl_cert_file', 'ssl_key_file'].some((name) => isInside(tls.get(name) ?? 'server', directory));
  for (const { name, value } of inside.set) {
    const why =
      refusal(name, value) ??
      (sslFiles.has(name) && value !== '' && isInside(value, directory)
        ? 'its file lies in the old data directory; mount it from a Secret and set its path in the template'
        : null) ??
      (name === 'ssl' && tlsInside
        ? 'certificate and key lie in the old data directory; mount them from a Secret, then set ssl = on'
        : null);
    if (why === null) settings.autoConf[name] = value;
    else settings.refused.push({ name, why });
  }
  return { settings };
}

function isInside(path: string, directory: string): boolean {
  return !path.startsWith('/') || path.startsWith(directory);
}

/** Into the running, fenced target; what is in its files takes effect at its next start. Nothing is reloaded here. */
export async function carrySettings(
  kc: KubeConfig,
  arg: Parameters<PostgresActivities['carrySettings']>[0],
): Promise<{ items: CarriedItem[] }> {
  const { target, settings, world } = arg;
  const items: CarriedItem[] = settings.refused.map(({ name, why }) => ({
    what: sslFiles.has(name)
      ? 'file'
      : name.endsWith('hba.conf')
        ? 'hba'
        : name.endsWith('ident.conf')
          ? 'ident'
          : 'setting',
    name,
    outcome: 'refused',
    why,
  }));
  for (const what of ['hba', 'ident'] as const) {
    const text = settings[what];
    if (text !== null) items.push(await carryFile(kc, target, world, what, text));
  }
  const known = await sqlJson<{ files: Record<string, string>; libraries: string; defaults: Record<string, string> }>(
    kc,
    target,
    `SELECT json_build_object(
       'files', (SELECT coalesce(json_object_agg(lower(name), setting), '{}') FROM (SELECT DISTINCT ON (lower(name)) name, setting
         FROM pg_file_settings WHERE name IS NOT NULL ORDER BY lower(name), seqno DESC) AS last),
       'defaults', (SELECT json_object_agg(lower(name), boot_val) FROM pg_settings WHERE boot_val IS NOT NULL),
       'libraries', (SELECT setting FROM pg_config WHERE name = 'PKGLIBDIR'))`,
  );
  for (const [name, value] of Object.entries(settings.autoConf)) {
    const now = known.files[name.toLowerCase()];
    items.push(
      sameValue(name, now, value) || (now === undefined && known.defaults[name.toLowerCase()] === value)
        ? { what: 'setting', name, outcome: 'same', why: 'the target has the same value' }
        : await carrySetting(kc, target, name, value, known.libraries),
    );
  }
  return { items };
}

async function carrySetting(
  kc: KubeConfig,
  target: ServerRef,
  name: string,
  value: string,
  folder: string,
): Promise<CarriedItem> {
  const refused = (why: string): CarriedItem => ({ what: 'setting', name, outcome: 'refused', why });
  const again = refusal(name, value);
  if (again !== null) return refused(again);
  const parts = lists.has(name) ? listOf(value) : [value];
  if (libraries.has(name)) {
    // A server that lacks one of these does not start.
    const missing = await sqlJson<string[]>(
      kc,
      target,
      `SELECT coalesce(json_agg(name), '[]') FROM json_array_elements_text(:'names'::json) AS name
       WHERE (pg_stat_file(CASE WHEN name LIKE '/%' THEN name ELSE :'folder' || '/' || replace(name, '$libdir/', '') END
         || CASE WHEN name LIKE '%.so' THEN '' ELSE '.so' END, true)).size IS NULL`,
      { variables: { names: JSON.stringify(parts), folder } },
    );
    if (missing.length > 0) return refused(`the target’s image has no library ${missing.join(', ')}`);
  }
  try {
    await sqlText(
      kc,
      target,
      `SELECT format('ALTER SYSTEM SET %s = %s', (SELECT string_agg(quote_ident(part), '.') FROM unnest(string_to_array(:'name', '.')) AS part),
         (SELECT coalesce(string_agg(quote_literal(part), ', ' ORDER BY n), '''''') FROM json_array_elements_text(:'parts'::json) WITH ORDINALITY AS p (part, n))) \\gexec`,
      { write: true, variables: { name, parts: JSON.stringify(parts) } },
    );
    return { what: 'setting', name, outcome: 'carried', why: 'ALTER SYSTEM, from the target’s next start' };
  } catch (error) {
    if (!isFailure(error, 'CommandFailed')) throw error;
    const said = /ERROR:\s+(?:[0-9A-Z]{5}: )?(.*)/.exec(messageOf(error))?.[1] ?? messageOf(error);
    return refused(`the target does not accept it: ${said}`);
  }
}

/** How a list is quoted does not matter. */
function sameValue(name: string, a: string | undefined, b: string): boolean {
  return a === b || (a !== undefined && lists.has(name) && listOf(a).join('\n') === listOf(b).join('\n'));
}

/** `"$user", public` as its names. */
function listOf(value: string): string[] {
  return [...value.matchAll(/"((?:[^"]|"")*)"|[^,\s][^,]*/g)].map(([all, quoted]) =>
    quoted === undefined ? all.trim() : quoted.replaceAll('""', '"'),
  );
}

async function carryFile(
  kc: KubeConfig,
  target: ServerRef,
  world: World,
  what: 'hba' | 'ident',
  text: string,
): Promise<CarriedItem> {
  const name = what === 'hba' ? 'pg_hba.conf' : 'pg_ident.conf';
  const { path, inside } = await sqlJson<{ path: string; inside: boolean }>(
    kc,
    target,
    `SELECT json_build_object('path', current_setting(:'setting'), 'inside',
       starts_with(current_setting(:'setting'), current_setting('data_directory') || '/'))`,
    { variables: { setting: `${what}_file` } },
  );
  if (!inside)
    return { what, name, outcome: 'refused', why: `the target’s template keeps it at ${path}; put it there` };
  const old = await onFile(kc, target, 'read', path, world);
  if (rules(old) === rules(text)) {
    // Also when an attempt before this one put it there and was cut off.
    await onFile(kc, target, 'keep', path, world);
    return { what, name, outcome: 'same', why: 'the target has the same rules' };
  }
  await onFile(kc, target, 'replace', path, world, text);
  const wrong = await sqlJson<string[]>(
    kc,
    target,
    `SELECT coalesce(json_agg(format('line %s: %s', line_number, error)), '[]') FROM ${what === 'hba' ? 'pg_hba_file_rules' : 'pg_ident_file_mappings'} WHERE error IS NOT NULL`,
  );
  if (wrong.length > 0) {
    await onFile(kc, target, 'restore', path, world);
    return { what, name, outcome: 'refused', why: `the target does not accept it: ${wrong.join('; ')}` };
  }
  await onFile(kc, target, 'keep', path, world);
  return { what, name, outcome: 'carried', why: 'as it was, from the target’s next start' };
}

/** A file's lines without comments and spacing. */
function rules(text: string): string {
  return text
    .split('\n')
    .map((line) => line.replace(/#.*$/, '').trim().replaceAll(/\s+/g, ' '))
    .filter((line) => line !== '')
    .join('\n');
}

async function onFile(
  kc: KubeConfig,
  server: ServerRef,
  what: 'read' | 'replace' | 'restore' | 'keep',
  file: string,
  world: World,
  text = '',
): Promise<string> {
  const bytes = Buffer.from(text);
  const { code, stdout, stderr } = await execInPod(
    kc,
    server.pod,
    [
      'bash',
      '-c',
      script('settings.sh'),
      'pgleap',
      ...serverArgs(server),
      what,
      file,
      world.upgradeId,
      String(bytes.length),
    ],
    { stdin: bytes },
  );
  if (code === 0) return stdout.toString('utf8');
  throw fail(
    code === 75 ? 'StreamBroken' : 'CommandFailed',
    `could not ${what} ${file} in ${server.pod.namespace}/${server.pod.name}: ${stderr.trim()}`,
  );
}
