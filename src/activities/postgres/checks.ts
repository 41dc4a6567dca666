/**
 * What the source's catalogues can say before anything is changed. Each check is one row: its SQL gives a text for each thing
 * found. AWS numbers are those of the public pre-check tool that docs/checks.md compares with. Checks never write.
 */
import { oldestSource } from '../../domain/versions.ts';
import type { CheckStatus } from '../../domain/checks.ts';

export interface SourceCheck {
  id: string;
  aws?: string;
  /** database: run in every database that takes connections. */
  scope: 'server' | 'database';
  /** Majors between which the SQL works, or finds anything at all. */
  minSource?: number;
  maxSource?: number;
  minTarget?: number;
  status: Exclude<CheckStatus, 'PASSED' | 'SKIPPED'>;
  /** Plural, after a number: `3 prepared transactions: a, b, c`. */
  things: string;
  remedy: string;
  /** Its one column is text. `:target` is the target's major; search_path is empty. */
  sql: string;
}

const userSchema = `n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'`;
const ownRelation = `pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace AND ${userSchema}`;
const notOfExtension = (catalogue: string, oid: string) =>
  `NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS x WHERE x.classid = 'pg_catalog.${catalogue}'::regclass AND x.objid = ${oid} AND x.deptype = 'e')`;

/** Settings by the first major that no longer knows them. */
const removedSettings: Record<number, string[]> = {
  13: ['wal_keep_segments'],
  14: ['vacuum_cleanup_index_scale_factor', 'operator_precedence_warning'],
  15: ['stats_temp_directory'],
  16: ['vacuum_defer_cleanup_age', 'promote_trigger_file', 'force_parallel_mode'],
  17: ['old_snapshot_threshold', 'db_user_namespace', 'trace_recovery_messages'],
};
const removedSettingsValues = Object.entries(removedSettings)
  .flatMap(([major, names]) => names.map((name) => `(${major}, '${name}')`))
  .join(', ');

const oldPolymorphic = [
  'array_append(anyarray,anyelement)',
  'array_cat(anyarray,anyarray)',
  'array_prepend(anyelement,anyarray)',
  'array_remove(anyarray,anyelement)',
  'array_replace(anyarray,anyelement,anyelement)',
  'array_position(anyarray,anyelement)',
  'array_position(anyarray,anyelement,integer)',
  'array_positions(anyarray,anyelement)',
  'width_bucket(anyelement,anyarray)',
]
  .map((name) => `'pg_catalog.${name}'`)
  .join(', ');

export const sourceChecks: SourceCheck[] = [
  {
    id: 'source.invalid-databases',
    aws: '2',
    scope: 'server',
    status: 'FAILED',
    things: 'invalid databases, left by an interrupted DROP DATABASE',
    remedy: 'drop them: DROP DATABASE <name>',
    sql: `SELECT datname FROM pg_database WHERE datconnlimit = -2`,
  },
  {
    id: 'source.closed-databases',
    aws: '2b',
    scope: 'server',
    status: 'FAILED',
    things: 'databases that take no connections, so that a dump leaves them out',
    remedy: 'ALTER DATABASE <name> ALLOW_CONNECTIONS true, or drop them',
    sql: `SELECT datname FROM pg_database WHERE NOT datallowconn AND datconnlimit <> -2 AND datname <> 'template0'`,
  },
  {
    id: 'source.template-databases',
    aws: '3',
    scope: 'server',
    status: 'FAILED',
    things: 'missing or changed databases of initdb',
    remedy: 'create them again from the remaining template; template0 and template1 must be templates',
    sql: `SELECT name FROM unnest(ARRAY['template0', 'template1', 'postgres']) AS name
      WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = name AND (datistemplate OR name = 'postgres'))`,
  },
  {
    id: 'source.superuser',
    scope: 'server',
    status: 'FAILED',
    things: 'logins of pgleap that are not the bootstrap superuser',
    remedy: 'set database.superuser to the role that initdb made (oid 10); the target’s POSTGRES_USER must be the same',
    sql: `SELECT format('%s, where initdb made %s', current_user, rolname) FROM pg_roles WHERE oid = 10 AND rolname <> current_user
      UNION ALL SELECT current_user || ', which is no superuser' FROM pg_roles WHERE rolname = current_user AND NOT rolsuper`,
  },
  {
    id: 'source.pg-roles',
    aws: '4',
    scope: 'server',
    status: 'FAILED',
    things: 'own roles whose names begin with pg_, which dumps leave out',
    remedy: 'ALTER ROLE <name> RENAME TO …',
    sql: `SELECT rolname FROM pg_roles WHERE rolname ~ '^pg_' AND oid >= 16384`,
  },
  {
    id: 'source.md5-roles',
    scope: 'server',
    status: 'WARNING',
    things: 'roles with md5 passwords, which a pg_hba.conf with scram-sha-256 turns away; carried over as they are',
    remedy: 'have their passwords set anew under password_encryption = scram-sha-256, or keep md5 in pg_hba.conf',
    sql: `SELECT rolname FROM pg_authid WHERE rolpassword LIKE 'md5%'`,
  },
  {
    id: 'source.role-grants',
    scope: 'server',
    minSource: 16,
    status: 'WARNING',
    things: 'memberships granted by roles that may not grant them any more',
    remedy: 'revoke and grant them again as a superuser',
    sql: `SELECT format('%s to %s by %s', pg_get_userbyid(m.roleid), pg_get_userbyid(m.member), pg_get_userbyid(m.grantor))
      FROM pg_auth_members AS m JOIN pg_roles AS g ON g.oid = m.grantor
      WHERE NOT g.rolsuper AND NOT EXISTS (SELECT FROM pg_auth_members AS a WHERE a.roleid = m.roleid AND a.member = m.grantor AND a.admin_option)`,
  },
  {
    id: 'source.prepared-transactions',
    aws: '17',
    scope: 'server',
    status: 'FAILED',
    things: 'prepared transactions, which no dump holds',
    remedy: 'COMMIT PREPARED or ROLLBACK PREPARED each in its database',
    sql: `SELECT format('%s in %s', gid, database) FROM pg_prepared_xacts`,
  },
  {
    id: 'source.hba-valid',
    scope: 'server',
    status: 'FAILED',
    things:
      'wrong lines in pg_hba.conf: the server runs by what it read before they came, which no way back brings again',
    remedy: 'put them right, and reload: SELECT pg_reload_conf()',
    sql: `SELECT format('line %s: %s', line_number, error) FROM pg_hba_file_rules WHERE error IS NOT NULL`,
  },
  {
    id: 'source.system-schemas',
    scope: 'database',
    status: 'FAILED',
    things: 'objects of your own in pg_catalog or information_schema, which no dump holds',
    remedy: 'move them to a schema of their own, or drop them',
    sql: `SELECT format('%s %s', i.type, i.identity)
      FROM (SELECT 'pg_class'::regclass AS class, oid, relnamespace AS schema FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'S', 'f', 'c')
        UNION ALL SELECT 'pg_proc'::regclass, oid, pronamespace FROM pg_proc
        UNION ALL SELECT 'pg_operator'::regclass, oid, oprnamespace FROM pg_operator
        UNION ALL SELECT 'pg_type'::regclass, oid, typnamespace FROM pg_type) AS o
      CROSS JOIN LATERAL pg_identify_object(o.class, o.oid, 0) AS i
      WHERE o.oid >= 16384 AND o.schema IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
        AND NOT EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = o.class AND d.objid = o.oid AND d.deptype IN ('e', 'i'))`,
  },
  {
    id: 'source.replication-slots',
    aws: '13',
    scope: 'server',
    status: 'FAILED',
    things: 'replication slots, which no dump holds: their consumers lose their place',
    remedy: 'stop the consumers, drop the slots (pg_drop_replication_slot), and plan how they begin anew',
    sql: `SELECT format('%s (%s)', slot_name, coalesce(plugin, 'physical')) FROM pg_replication_slots WHERE NOT temporary`,
  },
  {
    id: 'source.standbys',
    scope: 'server',
    status: 'FAILED',
    things: 'standbys or other receivers of WAL, which cannot follow the target',
    remedy: 'stop them; build them anew from the target afterwards',
    sql: `SELECT format('%s at %s', application_name, coalesce(host(client_addr), 'the socket')) FROM pg_stat_replication`,
  },
  {
    id: 'source.standby',
    scope: 'server',
    status: 'FAILED',
    things: 'servers in recovery instead of a primary',
    remedy: 'name the primary in the spec',
    sql: `SELECT 'this one' WHERE pg_is_in_recovery()`,
  },
  {
    id: 'source.tablespaces',
    scope: 'server',
    status: 'FAILED',
    things: 'own tablespaces, whose directories the new volume does not have',
    remedy: 'move their tables to pg_default (ALTER TABLE ALL IN TABLESPACE … SET TABLESPACE pg_default) and drop them',
    sql: `SELECT spcname FROM pg_tablespace WHERE spcname NOT IN ('pg_default', 'pg_global')`,
  },
  {
    id: 'source.checksum-failures',
    scope: 'server',
    status: 'FAILED',
    things: 'databases in which pages failed their checksum',
    remedy: 'the volume or its data is damaged: restore the pages from a backup first',
    sql: `SELECT format('%s: %s', coalesce(datname, 'shared'), checksum_failures) FROM pg_stat_database WHERE checksum_failures > 0`,
  },
  {
    id: 'source.removed-role-settings',
    scope: 'server',
    status: 'FAILED',
    things: 'settings of roles or databases that the target no longer knows',
    remedy: 'ALTER ROLE … RESET or ALTER DATABASE … RESET them',
    sql: `SELECT format('%s of %s %s', name, pg_get_userbyid(nullif(setrole, 0)), (SELECT datname FROM pg_database WHERE oid = setdatabase))
      FROM pg_db_role_setting, unnest(setconfig) AS item, (VALUES ${removedSettingsValues}) AS gone (since, name)
      WHERE lower(split_part(item, '=', 1)) = name AND since <= :target`,
  },
  {
    id: 'source.removed-settings',
    scope: 'server',
    status: 'WARNING',
    things: 'settings in configuration files that the target no longer knows; pgleap leaves them out',
    remedy: 'take them out of the files, and out of the arguments of the target’s template',
    sql: `SELECT DISTINCT gone.name FROM pg_file_settings AS f JOIN (VALUES ${removedSettingsValues}) AS gone (since, name) ON lower(f.name) = gone.name
      WHERE since <= :target`,
  },
  {
    id: 'source.archiving',
    scope: 'server',
    status: 'WARNING',
    things: 'ways WAL is archived, all of which end with this server: the target has another system identifier',
    remedy: 'prepare a new stanza or prefix, and a new base backup right after the upgrade',
    sql: `SELECT name FROM pg_settings WHERE name IN ('archive_command', 'archive_library') AND setting NOT IN ('', '(disabled)')
      AND current_setting('archive_mode') <> 'off'`,
  },
  {
    id: 'source.long-transactions',
    aws: '12',
    scope: 'server',
    status: 'WARNING',
    things: 'transactions that have run for over 5 minutes',
    remedy: 'let them end; what is still open at phase quiesce is ended and rolled back',
    sql: `SELECT format('%s@%s %s since %s', usename, datname, application_name, date_trunc('second', xact_start)) FROM pg_stat_activity
      WHERE backend_type = 'client backend' AND xact_start < now() - interval '5 min' AND pid <> pg_backend_pid()`,
  },
  {
    id: 'source.background-workers',
    scope: 'server',
    status: 'WARNING',
    things: 'workers of extensions, which may write from inside the server where no fence holds them',
    remedy: 'stop their jobs for the time of the upgrade; a dump that changed meanwhile is refused',
    sql: `SELECT DISTINCT backend_type FROM pg_stat_activity WHERE backend_type !~ '^(autovacuum (launcher|worker)|logical replication .*|parallel worker|background writer|background worker|client backend|checkpointer|archiver|startup|wal ?(receiver|sender|writer|summarizer)|slotsync worker|io worker)$'`,
  },
  {
    id: 'source.data-checksums',
    scope: 'server',
    minTarget: 18,
    status: 'INFO',
    things: 'properties of initdb that change: data checksums are off here and on by default in 18',
    remedy: 'set POSTGRES_INITDB_ARGS where that is not wanted',
    sql: `SELECT 'data checksums' WHERE current_setting('data_checksums') = 'off'`,
  },
  {
    id: 'source.subscriptions',
    aws: '30',
    scope: 'database',
    status: 'FAILED',
    things: 'subscriptions, which come back disabled and without their slots',
    remedy: 'drop them and create them anew on the target afterwards',
    sql: `SELECT subname FROM pg_subscription WHERE subdbid = (SELECT oid FROM pg_database WHERE datname = current_database())`,
  },
  {
    id: 'source.publications',
    aws: '29',
    scope: 'database',
    status: 'INFO',
    things: 'publications; their subscribers must begin anew',
    remedy: 'none for the upgrade itself',
    sql: `SELECT pubname FROM pg_publication`,
  },
  {
    id: 'source.timescale',
    scope: 'database',
    status: 'FAILED',
    things: 'TimescaleDB extensions, whose tables a plain dump and restore can leave empty',
    remedy: 'follow Timescale’s own upgrade guide',
    sql: `SELECT format('%s %s', extname, extversion) FROM pg_extension WHERE extname LIKE 'timescaledb%'`,
  },
  {
    id: 'source.pg-cron',
    aws: '34',
    scope: 'database',
    status: 'FAILED',
    things: 'pg_cron extensions, whose jobs write from inside the server where no fence holds them',
    remedy:
      'set all jobs inactive (UPDATE cron.job SET active = false), note which, and drop the extension; create it anew afterwards',
    sql: `SELECT format('%s %s', extname, extversion) FROM pg_extension WHERE extname = 'pg_cron'`,
  },
  {
    id: 'source.removed-extensions',
    aws: '36, 37',
    scope: 'database',
    status: 'FAILED',
    things: 'extensions that PostgreSQL no longer has',
    remedy: 'DROP EXTENSION',
    sql: `SELECT extname FROM pg_extension JOIN (VALUES ('adminpack', 17), ('old_snapshot', 17), ('chkpass', 11), ('tsearch2', 10)) AS gone (name, since)
      ON extname = name WHERE since <= :target`,
  },
  {
    id: 'source.removed-languages',
    scope: 'database',
    minTarget: 15,
    status: 'FAILED',
    things: 'languages of Python 2, which PostgreSQL no longer has',
    remedy: 'rewrite their functions for plpython3u and drop the language',
    sql: `SELECT lanname FROM pg_language WHERE lanname IN ('plpythonu', 'plpython2u')`,
  },
  {
    id: 'source.postfix-operators',
    aws: '45',
    scope: 'database',
    maxSource: 13,
    minTarget: 14,
    status: 'FAILED',
    things: 'postfix operators, which PostgreSQL no longer has',
    remedy: 'drop them and use functions',
    sql: `SELECT oid::regoperator::text FROM pg_operator WHERE oprright = 0 AND oid >= 16384`,
  },
  {
    id: 'source.encoding-conversions',
    aws: '44',
    scope: 'database',
    maxSource: 13,
    minTarget: 14,
    status: 'FAILED',
    things: 'own encoding conversions, whose functions need another signature since 14',
    remedy: 'drop them and create them anew on the target',
    sql: `SELECT conname FROM pg_conversion WHERE oid >= 16384`,
  },
  {
    id: 'source.polymorphic-functions',
    aws: '46',
    scope: 'database',
    maxSource: 13,
    minTarget: 14,
    status: 'FAILED',
    things: 'aggregates or operators on array functions that take anycompatiblearray since 14',
    remedy: 'drop them and create them anew on the target',
    sql: `SELECT 'aggregate ' || a.aggfnoid::text FROM pg_aggregate AS a WHERE a.aggfnoid >= 16384
        AND (a.aggtransfn = ANY (ARRAY[${oldPolymorphic}]::regprocedure[]) OR a.aggfinalfn = ANY (ARRAY[${oldPolymorphic}]::regprocedure[]))
      UNION ALL SELECT 'operator ' || o.oid::regoperator::text FROM pg_operator AS o
        WHERE o.oid >= 16384 AND o.oprcode = ANY (ARRAY[${oldPolymorphic}]::regprocedure[])`,
  },
  {
    id: 'source.select-rules',
    scope: 'database',
    maxSource: 15,
    minTarget: 16,
    status: 'FAILED',
    things: 'tables with an ON SELECT rule, which only views may have since 16',
    remedy: 'replace them by views',
    sql: `SELECT c.oid::regclass::text FROM ${ownRelation} JOIN pg_rewrite AS r ON r.ev_class = c.oid AND r.ev_type = '1' WHERE c.relkind = 'r'`,
  },
  {
    id: 'source.unlogged-partitioned',
    scope: 'database',
    minTarget: 18,
    status: 'FAILED',
    things: 'partitioned tables that are unlogged, which 18 refuses',
    remedy: 'ALTER TABLE … SET LOGGED',
    sql: `SELECT c.oid::regclass::text FROM ${ownRelation} WHERE c.relkind = 'p' AND c.relpersistence = 'u'`,
  },
  {
    id: 'source.inherited-not-null',
    scope: 'database',
    maxSource: 17,
    minTarget: 18,
    status: 'WARNING',
    things: 'columns that are nullable where their parent’s are not; 18 may refuse them',
    remedy: 'ALTER TABLE … ALTER COLUMN … SET NOT NULL',
    sql: `SELECT format('%s.%I', a.attrelid::regclass, a.attname) FROM pg_inherits AS i JOIN pg_attribute AS p ON p.attrelid = i.inhparent
        AND p.attnotnull AND p.attnum > 0 JOIN pg_attribute AS a ON a.attrelid = i.inhrelid AND a.attname = p.attname AND NOT a.attnotnull`,
  },
  {
    id: 'source.lock-table',
    aws: '35c',
    scope: 'database',
    status: 'FAILED',
    things: 'databases with more tables than one transaction may lock, as a dump must',
    remedy: 'raise max_locks_per_transaction (needs a restart)',
    sql: `SELECT format('%s tables, %s locks', count(*), slots) FROM pg_class, (SELECT current_setting('max_locks_per_transaction')::int
        * (current_setting('max_connections')::int + current_setting('max_prepared_transactions')::int) AS slots) AS limits
      WHERE relkind IN ('r', 'p', 'S', 'v', 'm', 'f') AND pg_class.oid >= 16384 GROUP BY slots HAVING count(*) > slots`,
  },
  {
    id: 'source.search-path-functions',
    scope: 'database',
    status: 'WARNING',
    things:
      'functions without a search_path of their own in indexes, constraints or generated columns; restores run with an empty one',
    remedy: 'ALTER FUNCTION … SET search_path = …, or qualify the names inside; the trial import tells for certain',
    sql: `SELECT DISTINCT p.oid::regprocedure::text FROM pg_depend AS d JOIN pg_proc AS p ON p.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_proc'::regclass
        JOIN pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('c', 'internal')
        WHERE d.classid IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_constraint'::regclass, 'pg_catalog.pg_attrdef'::regclass)
        AND p.oid >= 16384 AND ${notOfExtension('pg_proc', 'p.oid')} AND coalesce(array_to_string(p.proconfig, ','), '') !~ 'search_path='
        AND p.prosrc <> ''`,
  },
  {
    id: 'source.system-view-dependants',
    aws: '16',
    scope: 'database',
    status: 'WARNING',
    things: 'views on system catalogues, whose columns change between majors',
    remedy: 'drop them if the trial import refuses them, and create them anew on the target',
    sql: `SELECT DISTINCT c.oid::regclass::text FROM ${ownRelation} JOIN pg_rewrite AS r ON r.ev_class = c.oid
        JOIN pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass
        JOIN pg_class AS s ON s.oid = d.refobjid WHERE s.relnamespace = 'pg_catalog'::regnamespace AND ${notOfExtension('pg_class', 'c.oid')}`,
  },
  {
    id: 'source.extension-view-dependants',
    scope: 'database',
    status: 'WARNING',
    things: 'views on relations of an extension, whose columns may change with its version',
    remedy: 'drop them if the trial import refuses them, and create them anew on the target',
    sql: `SELECT DISTINCT c.oid::regclass::text FROM ${ownRelation} JOIN pg_rewrite AS r ON r.ev_class = c.oid
        JOIN pg_depend AS d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_catalog.pg_class'::regclass
        JOIN pg_depend AS e ON e.classid = 'pg_catalog.pg_class'::regclass AND e.objid = d.refobjid AND e.deptype = 'e'
        WHERE ${notOfExtension('pg_class', 'c.oid')}`,
  },
  {
    id: 'source.event-triggers',
    aws: '35',
    scope: 'database',
    status: 'WARNING',
    things: 'event triggers; they may fire while later objects are restored',
    remedy: 'see that the trial import is free of errors; disable those that call the outside',
    sql: `SELECT evtname FROM pg_event_trigger WHERE evtenabled <> 'D' AND ${notOfExtension('pg_event_trigger', 'pg_event_trigger.oid')}`,
  },
  {
    id: 'source.unlogged',
    aws: '28',
    scope: 'database',
    status: 'INFO',
    things: 'unlogged tables; their rows are dumped and restored like others',
    remedy: 'none for the upgrade itself',
    sql: `SELECT c.oid::regclass::text FROM ${ownRelation} WHERE c.relkind = 'r' AND c.relpersistence = 'u'`,
  },
  {
    id: 'source.matviews',
    scope: 'database',
    status: 'INFO',
    things: 'materialized views; a restore refreshes them, so their rows may differ from stale ones',
    remedy: 'none for the upgrade itself',
    sql: `SELECT c.oid::regclass::text FROM ${ownRelation} WHERE c.relkind = 'm' AND c.relispopulated`,
  },
  {
    id: 'source.large-objects',
    aws: '20',
    scope: 'database',
    status: 'WARNING',
    things: 'counts of large objects above 100,000, which restore slowly',
    remedy: 'remove orphans with vacuumlo, or expect a longer downtime; a rehearsal measures it',
    sql: `SELECT count(*)::text FROM pg_largeobject_metadata HAVING count(*) > 100000`,
  },
  {
    id: 'source.invalid-indexes',
    aws: '8',
    scope: 'database',
    status: 'WARNING',
    things: 'invalid indexes, which a dump leaves out',
    remedy: 'REINDEX or drop them',
    sql: `SELECT i.indexrelid::regclass::text FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid WHERE NOT i.indisvalid AND c.relkind = 'i'`,
  },
  {
    id: 'source.foreign-servers',
    aws: '31',
    scope: 'database',
    status: 'INFO',
    things: 'foreign servers; the target must reach them too',
    remedy: 'none for the upgrade itself',
    sql: `SELECT srvname FROM pg_foreign_server`,
  },
  {
    id: 'source.public-create',
    scope: 'database',
    minTarget: 15,
    status: 'INFO',
    things: 'schemas public in which everybody may create, as before 15; kept as they are',
    remedy: 'REVOKE CREATE ON SCHEMA public FROM PUBLIC where nothing needs it',
    sql: `SELECT n.nspname FROM pg_namespace AS n, aclexplode(coalesce(n.nspacl, acldefault('n', n.nspowner))) AS a
      WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE'`,
  },
  {
    id: 'source.exclusive-backup',
    scope: 'database',
    maxSource: 14,
    minTarget: 15,
    status: 'WARNING',
    things: 'functions that call pg_start_backup or pg_stop_backup, which were renamed in 15',
    remedy: 'call pg_backup_start and pg_backup_stop, in functions and in backup scripts',
    sql: `SELECT p.oid::regprocedure::text FROM pg_proc AS p WHERE p.oid >= 16384 AND p.prosrc ~* 'pg_(start|stop)_backup'`,
  },
];

/** Whether a check has something to say between these majors; otherwise it is SKIPPED. */
export function applies(check: SourceCheck, source: number, target: number): boolean {
  return (
    source >= (check.minSource ?? oldestSource) &&
    source <= (check.maxSource ?? Number.POSITIVE_INFINITY) &&
    target >= (check.minTarget ?? 0)
  );
}

/** One script for all checks of a scope: each answers with one line of JSON. */
export function checksSql(checks: SourceCheck[]): string {
  return checks
    .map(
      ({ id, sql }) =>
        `SELECT json_build_object('id', '${id}', 'count', count(*), 'some', (array_agg(thing))[1:5]) FROM (${sql}) AS found (thing);`,
    )
    .join('\n');
}
