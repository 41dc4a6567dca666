import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { createKube } from '../../src/activities/kubernetes/client.ts';
import { createPostgresActivities } from '../../src/activities/postgres/index.ts';
import type { SavedSettings } from '../../src/activities/types.ts';
import type { Check } from '../../src/domain/checks.ts';
import type { DatabaseFact, DumpFact, FingerprintFact, ServerRef, SourceFacts } from '../../src/domain/facts.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { failureOf, run } from './environment.ts';
import { startServers, superuser, superuserPassword, type Servers } from './postgres-parts.ts';

// Each test is short on a machine of its own, but this one has others beside it.
vi.setConfig({ testTimeout: 120_000 });

const secrets = [superuserPassword, 'app-pw', 'site-password', 'SCRAM-SHA-256'];
const spec = specSchema.parse({
  database: { namespace: 'databases' },
  target: { image: 'postgres:18' },
  probes: [
    { database: 'site', query: 'SELECT count(*) FROM products' },
    { database: 'Shop "prod" ü\\b=1', query: "SELECT E'\\\\! touch /tmp/never' || pg_sleep(0.02)" },
  ],
});

describe.each([15, 16] as const)('PostgreSQL %i to 18', (from) => {
  let servers: Servers;
  let activities: ReturnType<typeof createPostgresActivities>;
  let database: DatabaseFact;
  let facts: SourceFacts;
  let hbaBefore: string;
  let dumped: DumpFact;
  let before: FingerprintFact;
  let unchanged: FingerprintFact;
  let saved: SavedSettings;
  let overTcp: ServerRef;

  beforeAll(async () => {
    servers = await startServers(from);
    activities = createPostgresActivities({ kubeConfig: servers.kubeConfig });
    const { sourcePod, sourceIp, deploymentUid, candidate } = servers;
    overTcp = { ...candidate, role: 'source', host: sourceIp };
    database = {
      workload: { kind: 'Deployment', namespace: 'databases', name: 'postgres', uid: deploymentUid },
      pod: sourcePod,
      podIp: sourceIp,
      port: 5432,
      superuser,
      image: `postgres:${from}`,
      templateHash: 't',
      mountPath: '/var/lib/postgresql/data',
      subPath: null,
      volumeName: 'storage',
      claim: {
        name: 'none',
        uid: '',
        storageClass: '',
        accessModes: [],
        volumeMode: 'Filesystem',
        requested: '1Gi',
        capacityBytes: 1,
        labels: {},
        annotations: {},
      },
      volume: { pv: '', pvUid: '', reclaimPolicy: 'Retain', driver: '', handle: '', spec: {} },
      pgdataEnv: null,
      whenScaled: 'Retain',
      terminationGraceSeconds: 30,
    };
  }, 180_000);
  afterAll(() => servers.close());

  const inspect = () => run(() => activities.inspectSource({ spec, database }));
  const statOf = (path: string) => servers.run(servers.sourcePod, 'sha256sum < "$1"; stat -c "%a %u:%g" "$1"', path);
  const fence = (candidateIp = servers.candidateIp) =>
    run(() =>
      activities.fenceSource({
        world: servers.world,
        source: servers.source,
        hbaFile: facts.hbaFile,
        candidateIp,
        readOnlyLogins: ['grafana'],
      }),
    );
  const fingerprint = (server: ServerRef, name: string) =>
    run(() => activities.fingerprint({ world: servers.world, server, name }));
  /** A login over TCP from a pod that is neither source nor candidate. */
  const login = (user: string, db: string, sql = 'SELECT 1') =>
    servers
      .run(
        servers.stranger,
        'PGPASSWORD="$3" PGDATABASE="$4" psql -XAtw -h "$1" -U "$2" -c "$5" 2>&1 || true',
        servers.sourceIp,
        user,
        `${user}-password`,
        db,
        sql,
      )
      .then(
        (text) => text.trim(),
        (error: Error) => error.message,
      );

  it('inspects the source', async () => {
    const { facts: found, checks } = await inspect();
    expect(checks.filter(({ status }) => status === 'FAILED')).toEqual([]);
    expect(found).toMatchObject({
      major: from,
      encoding: 'UTF8',
      preload: ['pg_stat_statements'],
      extensions: expect.arrayContaining(['plpgsql', 'citext', 'hstore', 'pg_stat_statements']),
    });
    facts = found as SourceFacts;
    hbaBefore = await statOf(facts.hbaFile);
    expect(facts.tables).toBeGreaterThan(50);
    expect(facts.probeMs[1]).toBeGreaterThan(20);
    const by = new Map(checks.map((check) => [check.id, check]));
    expect(by.get('source.md5-roles')).toMatchObject({ status: 'WARNING', message: expect.stringContaining('legacy') });
    expect(by.get('source.event-triggers')?.message).toContain('note_drop in site');
    expect(by.get('source.hba-writable')?.status).toBe('PASSED');
    for (const { status, remedy } of checks) if (status === 'WARNING') expect(remedy).toBeTruthy();
  });

  it('finds what a dump would lose or the target refuses', async () => {
    const { sourcePod } = servers;
    await servers.sql(
      sourcePod,
      'site',
      `CREATE FUNCTION pg_catalog.shim() RETURNS int LANGUAGE sql AS 'SELECT 1';
       CREATE TABLE information_schema.kept (a int); CREATE ROLE hidden; BEGIN; CREATE TABLE never (a int); PREPARE TRANSACTION 'half done';
       SELECT pg_create_physical_replication_slot('left over');`.replace("'left over'", "'left_over'"),
    );
    await servers.sql(
      sourcePod,
      'postgres',
      `CREATE DATABASE closed; ALTER DATABASE closed ALLOW_CONNECTIONS false;
       CREATE DATABASE broken; UPDATE pg_database SET datconnlimit = -2 WHERE datname = 'broken';
       ALTER ROLE hidden SET default_statistics_target = 5;
       ${from === 15 ? 'ALTER ROLE hidden SET vacuum_defer_cleanup_age = 5;' : "ALTER SYSTEM SET old_snapshot_threshold = '1h';"}
       UPDATE pg_authid SET rolname = 'pg_hidden' WHERE rolname = 'hidden';
       SELECT pg_reload_conf();`.replace('ALTER ROLE hidden SET vacuum_defer_cleanup_age = 5;', ''),
    );
    const { checks } = await inspect();
    const failed = checks.filter(({ status }) => status === 'FAILED').map(({ id }) => id);
    expect(failed.sort()).toEqual([
      'source.closed-databases',
      'source.invalid-databases',
      'source.pg-roles',
      'source.prepared-transactions',
      'source.replication-slots',
      'source.system-schemas',
    ]);
    expect(checks.find(({ id }) => id === 'source.system-schemas')?.message).toMatch(
      /^2 objects .*(function pg_catalog.shim\(\)|table information_schema.kept)/,
    );
    const settings = checks.find(({ id }) => id === 'source.removed-settings');
    expect(settings?.status).toBe(from === 15 ? 'PASSED' : 'WARNING');
    for (const check of checks) if (check.status === 'FAILED') expect(check.remedy).toBeTruthy();
    await servers.sql(
      sourcePod,
      'site',
      `ROLLBACK PREPARED 'half done'; SELECT pg_drop_replication_slot('left_over');
       DROP FUNCTION pg_catalog.shim(); DROP TABLE information_schema.kept; DROP DATABASE closed;
       DROP DATABASE broken;`,
    );
    await servers.sql(
      sourcePod,
      'postgres',
      `UPDATE pg_authid SET rolname = 'hidden' WHERE rolname = 'pg_hidden'; DROP ROLE hidden;
       ALTER SYSTEM RESET ALL; ALTER SYSTEM SET work_mem = '5MB'; SELECT pg_reload_conf();`.replace(
        'ALTER SYSTEM RESET ALL;',
        from === 15 ? '' : 'ALTER SYSTEM RESET old_snapshot_threshold;',
      ),
    );
    expect((await inspect()).checks.filter(({ status }) => status === 'FAILED')).toEqual([]);
  });

  it('says so when a server does not answer', async () => {
    const gone = await run(() => activities.inspectSource({ spec, database: { ...database, port: 5433 } }));
    expect(gone).toMatchObject({ facts: null, checks: [{ id: 'source.answers', status: 'FAILED' }] });
    const wrong = await run(() => activities.inspectSource({ spec, database: { ...database, superuser: 'site' } }));
    expect(wrong.facts === null || wrong.checks.some(({ status }: Check) => status === 'FAILED')).toBe(true);
  });

  it('finds the target image good', async () => {
    const { world, candidate } = servers;
    const { candidateIp } = servers;
    const look = (other: object) =>
      run(() => activities.checkCandidate({ world, source: overTcp, candidate, candidateIp, facts, ...other }));
    const checks = await look({});
    expect(checks.filter(({ status }) => status === 'FAILED')).toEqual([]);
    expect(checks.map(({ id }) => id)).toContain('target.extension-available');
    const elsewhere = { ...facts, systemIdentifier: '1', preload: ['no_such_library'] };
    const bad = await look({ facts: elsewhere });
    expect(bad.filter(({ status }) => status === 'FAILED').map(({ id }) => id)).toEqual([
      'target.login',
      'target.preload-loads',
    ]);
    const throughProxy = (await look({ candidateIp: '10.9.9.9' })).find(({ id }) => id === 'target.login');
    expect(throughProxy).toMatchObject({ status: 'FAILED', message: expect.stringContaining(candidateIp) });
  });

  it('refuses an older target for a source that marks its columns, as 17.12 does', async () => {
    const { world, candidate, candidateIp, sourcePod } = servers;
    const mark = `UPDATE pg_attribute SET attoptions = '{pg_attver=21153328}' WHERE attrelid = 'marked'::regclass AND attnum > 0`;
    await servers.sql(sourcePod, 'site', `CREATE TABLE marked (a int, b int); ${mark}`);
    const checks = await run(() =>
      activities.checkCandidate({ world, source: overTcp, candidate, candidateIp, facts }),
    );
    await servers.sql(sourcePod, 'site', 'DROP TABLE marked');
    expect(checks.filter(({ status }) => status === 'FAILED')).toMatchObject([
      { id: 'target.column-marks', message: expect.stringMatching(/with 2 columns.* pg_dump 18\.4 is older/) },
    ]);
  });

  it('fences the source, names who it ended, and lets read-only logins through', async () => {
    expect(await login('site', 'site')).toBe('1');
    const sleeping = login('site', 'site', 'SELECT pg_sleep(60)');
    await expect
      .poll(() => run(() => activities.otherSessions({ server: servers.source })))
      .toContainEqual(expect.stringMatching(/^site@site psql from/));
    const { ended } = await fence();
    expect(ended).toEqual([`site@site psql from ${servers.strangerIp}`]);
    expect(await sleeping).toMatch(/terminating connection/);
    expect(await login('site', 'site')).toMatch(/pg_hba.conf rejects/);
    expect(await login(superuser, 'site')).toMatch(/pg_hba.conf rejects/);
    expect(await login('grafana', 'metricity')).toBe('1');
    const hba = await servers.run(servers.sourcePod, 'cat "$1"', facts.hbaFile);
    expect(hba.split('\n')[0]).toMatch(/^# pgleap fence u0123abcd original sha256=[0-9a-f]{64}$/);
    expect((await statOf(`${facts.hbaFile}.pgleap-u0123abcd`)).trim()).toBe(hbaBefore.trim());
    expect((await statOf(facts.hbaFile)).split('\n')[1]).toBe(hbaBefore.split('\n')[1]);
  });

  it('does not call a source quiet that holds a prepared transaction', async () => {
    const { sourcePod } = servers;
    await servers.sql(sourcePod, 'site', `BEGIN; CREATE TABLE decided (a int); PREPARE TRANSACTION 'half done';`);
    const { message } = await failureOf(fence(), 'SourceNotQuiet', secrets);
    expect(message).toContain('half done in site');
    await servers.sql(sourcePod, 'site', `ROLLBACK PREPARED 'half done'`);
    await fence();
  });

  it('sees that a transaction committed which was older than the newest one', async () => {
    const { sourcePod, source } = servers;
    const next = () => run(() => activities.nextTransaction({ server: source }));
    const older = login('grafana', 'metricity', 'SELECT pg_current_xact_id(); SELECT pg_sleep(8)');
    let meanwhile = '';
    await expect
      .poll(
        async () => {
          await servers.sql(sourcePod, 'site', 'SELECT pg_current_xact_id()');
          return (meanwhile = await next());
        },
        { timeout: 7000 },
      )
      .toMatch(/:\d+$/);
    expect(await older).toMatch(/^\d+$/);
    expect(await next()).not.toBe(meanwhile);
  });

  it('waits for another attempt that is changing the fence', async () => {
    const { sourcePod } = servers;
    const order: string[] = [];
    const other = servers
      .run(sourcePod, 'exec 9<"$(dirname "$1")"; flock 9; touch /tmp/locked; sleep 3', facts.hbaFile)
      .then(() => order.push('other'));
    await expect.poll(() => servers.run(sourcePod, 'ls /tmp')).toContain('locked');
    await fence();
    order.push('fence');
    await other;
    expect(order).toEqual(['other', 'fence']);
  });

  it('renews the fence for another address, and refuses another upgrade’s', async () => {
    await fence('10.255.255.1');
    expect((await failureOf(fingerprint(overTcp, 'refused'), 'CommandFailed', secrets)).message).toMatch(/rejects/);
    expect((await fence()).ended).toEqual([]);
    const other = { ...servers.world, upgradeId: 'u99999999' };
    const arg = { world: other, source: servers.source, hbaFile: facts.hbaFile, candidateIp: '10.0.0.1' };
    await failureOf(
      run(() => activities.fenceSource({ ...arg, readOnlyLogins: [] })),
      'Locked',
      secrets,
    );
    const { checks } = await inspect();
    expect(checks.find(({ id }) => id === 'source.hba-writable')?.status).toBe('FAILED');
  });

  it('dumps the source and finds it unchanged', async () => {
    const { world } = servers;
    const heartbeats: unknown[] = [];
    const arg = { world, from: overTcp, compression: 'zstd' as const, estimateBytes: facts.bytes, name: 'dump-1' };
    before = await fingerprint(overTcp, 'source-1');
    dumped = await run(() => activities.dump(arg), { heartbeats });
    const done = heartbeats.map((beat) => Object(beat)).filter(({ what, unit }) => what === 'dump' && unit === 'bytes');
    expect(done.at(-1)?.done).toBeGreaterThan(500_000);
    expect(dumped).toMatchObject({ path: '/pgleap/dump-1.sql.zst', sha512: expect.stringMatching(/^[0-9a-f]{128}$/) });
    expect((await servers.run(servers.candidate.pod, 'sha512sum < "$1"', dumped.path)).slice(0, 128)).toBe(
      dumped.sha512,
    );
    // Found again under its name, not made again.
    expect(await run(() => activities.dump(arg))).toEqual(dumped);
    const after = await fingerprint(overTcp, 'source-2');
    expect(after.sha512).toBe(before.sha512);
    expect(before.tables).toBeGreaterThan(40);
    expect(before.largeObjects).toBe(6);
    ({ settings: saved } = await run(() =>
      activities.saveSettings({ world, source: servers.source, sourceFacts: facts }),
    ));
    expect(saved.hba).not.toContain('pgleap');
    expect(saved.autoConf).toMatchObject({ work_mem: '5MB', deadlock_timeout: '1500ms' });
  });

  it('begins a dump anew whose job was lost, and leaves nothing of one that failed', async () => {
    const { world, candidate } = servers;
    const arg = { world, from: overTcp, compression: 'gzip' as const, estimateBytes: 0, name: 'lost' };
    // A node that went down leaves a job's folder with a process that is no more.
    const folder = '/pgleap/jobs/dump-lost';
    await servers.run(candidate.pod, 'mkdir -p "$1" && echo 4000000 > "$1/pid" && echo 1 > "$1/start"', folder);
    await failureOf(
      run(() => activities.dump(arg)),
      'JobLost',
      secrets,
    );
    expect(await run(() => activities.dump(arg))).toMatchObject({ path: '/pgleap/lost.sql.gz' });
    const nobody = { ...overTcp, port: 5433 };
    await failureOf(
      run(() => activities.dump({ ...arg, from: nobody, name: 'failed' })),
      'ServerLost',
      secrets,
    );
    expect(await servers.run(candidate.pod, 'ls /pgleap /pgleap/jobs | grep failed || true')).toBe('');
  });

  it('imports nothing into servers that are not empty, not fenced, or with another dump', async () => {
    const { world, candidate, source } = servers;
    const arg = { world, server: candidate, path: dumped.path, compression: 'zstd' as const, sha512: dumped.sha512 };
    await failureOf(
      run(() => activities.importDump({ ...arg, sha512: '0'.repeat(128), name: 'wrong' })),
      'ChecksumMismatch',
      secrets,
    );
    await failureOf(
      run(() => activities.importDump({ ...arg, server: source, name: 'source' })),
      'Refused',
      secrets,
    );
    await failureOf(
      run(() =>
        activities.importDump({
          ...arg,
          server: { ...source, role: 'target' },
          path: '/etc/hostname',
          sha512: 'x',
          name: 'open',
        }),
      ),
      'ChecksumMismatch',
      secrets,
    );
  });

  it('tells no value of a row when an import fails, and its server’s log none, nor a statement', async () => {
    const { world, candidate } = servers;
    const canary = 'canary7731';
    const text = `CREATE DATABASE canary;
ALTER DATABASE canary SET log_statement = 'all';
ALTER DATABASE canary SET log_min_duration_statement = 0;
ALTER ROLE nobody PASSWORD '${canary}';
\\connect canary
CREATE TABLE n (a int);
COPY n (a) FROM stdin;
${canary}
\\.
CREATE TABLE t (a text);
COPY t (a) FROM stdin;
${canary}
${canary}
\\.
COMMENT ON TABLE t IS '${canary}';
CREATE UNIQUE INDEX twice ON t (a);
CREATE FUNCTION f(text) RETURNS int LANGUAGE plpgsql IMMUTABLE AS
  $$ BEGIN RAISE EXCEPTION 'no good: %', $1 USING ERRCODE = 'check_violation'; END $$;
CREATE INDEX raising ON t (f(a));
ALTER TABLE t ADD CONSTRAINT number CHECK (a::int > 0);
${canary} is no statement;
\\${canary}
`;
    const script = 'printf %s "$1" | gzip >/pgleap/canary.sql.gz && sha512sum </pgleap/canary.sql.gz';
    const sha512 = (await servers.run(candidate.pod, script, text)).slice(0, 128);
    const arg = { world, server: candidate, path: '/pgleap/canary.sql.gz', compression: 'gzip' as const, sha512 };
    const heartbeats: unknown[] = [];
    const imported = await run(() => activities.importDump({ ...arg, name: 'canary' }), { heartbeats });
    expect(JSON.stringify([imported, heartbeats])).not.toContain(canary);
    expect(imported.unexpected.map(({ sqlstate, message }) => `${sqlstate} ${message}`)).toEqual([
      '42704 role "nobody" does not exist',
      '22P02 invalid input syntax for type integer',
      '23505 could not create unique index "twice"',
      '23514 (words that may quote a row are left out)',
      '22P02 invalid input syntax for type integer',
      '42601 syntax error at or near',
      '? (words that may quote a row are left out)',
    ]);
    const log = await createKube(servers.kubeConfig).log(candidate.pod, { container: candidate.pod.container });
    expect(log).toContain('ready to accept connections');
    expect(log).not.toContain(canary);
    await servers.sql(candidate.pod, 'postgres', 'DROP DATABASE canary');
  });

  it('imports into the candidate without unexpected errors, and it equals the source', async () => {
    const { world, candidate } = servers;
    const arg = { world, server: candidate, path: dumped.path, compression: 'zstd' as const, sha512: dumped.sha512 };
    const imported = await run(() => activities.importDump({ ...arg, name: 'trial-0' }));
    expect(imported.unexpected).toEqual([]);
    expect(imported.expected.map(({ message }) => message)).toEqual([`role "${superuser}" already exists`]);
    const copy = await fingerprint(candidate, 'trial-0');
    const differences = await servers.run(candidate.pod, 'diff "$1" "$2" || true', before.path, copy.path);
    expect(differences).toBe('');
    expect(copy.sha512).toBe(before.sha512);
    unchanged = copy;
    await failureOf(
      run(() => activities.importDump({ ...arg, name: 'twice' })),
      'JobLost',
      secrets,
    );
    const { tried, failed, failedCount } = await run(() => activities.tryLogins({ world, server: candidate }));
    expect(failed).toEqual([]);
    expect(failedCount).toBe(0);
    const everybody = (what: string) =>
      servers.sql(candidate.pod, 'postgres', `SELECT format(${what}, i) FROM generate_series(1, 25) AS i \\gexec`);
    await everybody(`'CREATE ROLE barred_%s LOGIN'`);
    await everybody(`'ALTER ROLE barred_%s SET session_preload_libraries = missing'`);
    const many = await run(() => activities.tryLogins({ world, server: candidate }));
    expect(many).toMatchObject({ tried: tried + 25, failedCount: 25 });
    expect(many.failed).toHaveLength(20);
    expect(many.failed[0]).toMatch(/^barred_\d+: .*could not access file/);
    await everybody(`'DROP ROLE barred_%s'`);
    expect(tried).toBeGreaterThan(8);
    await run(() => activities.analyze({ world, server: candidate }));
    expect(
      await servers.sql(candidate.pod, 'site', `SELECT count(*) > 0 FROM pg_stats WHERE tablename = 'orders'`),
    ).toBe('t\n');
  });

  it('sees every change in the fingerprint, each in its own line and nowhere else', async () => {
    const { candidate } = servers;
    const changes: [database: string, sql: string, line: RegExp][] = [
      ['site', `UPDATE products SET name = 'bread' WHERE name = 'Bread'`, /^[<>] rows\tsite\tpublic.products\t/],
      ['site', `GRANT DELETE ON products TO readers`, /^[<>] relation\tsite\tpublic.products\t/],
      ['metricity', `SELECT nextval('called_once')`, /^[<>] sequence\tmetricity\tpublic.called_once\t/],
      ['site', `ALTER ROLE app PASSWORD 'another'`, /^[<>] role\t\tapp\t/],
      ['site', `ALTER FUNCTION log_order() COST 7`, /^[<>] object\tsite\tFUNCTION public.log_order\(\)\t/],
      ['site', `ALTER TABLE orders ADD CHECK (amount > -5)`, /^[<>] object\tsite\t.*orders/],
      [
        'site',
        `COMMENT ON COLUMN products.price IS 'x'`,
        /^[<>] object\tsite\tCOMMENT public.COLUMN "products"."price"\t/,
      ],
      [
        'site',
        `CREATE OR REPLACE VIEW sales WITH (security_barrier) AS SELECT p.name, sum(o.id) AS sold FROM orders o JOIN products p ON p.id = o.product GROUP BY p.id`,
        /^[<>] (object\tsite\tRULE|depends\tsite\t) ?public.sales /,
      ],
      ['pinnwand', `SELECT lo_put(424242, 0, 'A')`, /^[<>] largeobject\tpinnwand\t424242\t/],
      ['ascii', `UPDATE t SET a = E'\\xff\\xfd' WHERE a <> 'b'`, /^[<>] rows\tascii\tpublic.t\t/],
      ['postgres', `ALTER DATABASE latin CONNECTION LIMIT 3`, /^[<>] database\t\tlatin\t/],
      ['postgres', `REVOKE reader FROM app`, /^[<>] membership\t\tapp of reader\t/],
      ['postgres', `ALTER ROLE ALL SET myapp.x = 'other'`, /^[<>] setting\t\tall roles in all databases: myapp.x\t/],
      ['template1', `UPDATE in_template SET a = 2`, /^[<>] rows\ttemplate1\tpublic.in_template\t/],
    ];
    for (const [db, sql] of changes) {
      await servers.sql(candidate.pod, db, `SET client_min_messages = error; ${sql};`);
    }
    const changed = await fingerprint(candidate, 'changed');
    expect(changed.sha512).not.toBe(unchanged.sha512);
    const text = await servers.run(candidate.pod, 'diff "$1" "$2" || true', unchanged.path, changed.path);
    const differences = text.split('\n').filter((line) => /^[<>]/.test(line));
    for (const [, sql, line] of changes) {
      const found = differences.filter((difference) => line.test(difference));
      expect(found.length, sql).toBeGreaterThan(0);
    }
    for (const difference of differences) {
      expect(changes.filter(([, , line]) => line.test(difference)).length, difference).toBeGreaterThan(0);
    }
    for (const secret of [...secrets, 'another', 'bread']) expect(text).not.toContain(secret);
  });

  it('carries settings over or refuses them, with the reason', async () => {
    const { world, candidate } = servers;
    const settings: SavedSettings = {
      ...saved,
      autoConf: {
        ...saved.autoConf,
        no_such_setting: '1',
        session_preload_libraries: 'no_such_library',
        temp_tablespaces: '"pg_default", pg_default',
        archive_command: 'cp %p /elsewhere',
        'my app.x': 'x',
      },
      refused: [{ name: 'primary_conninfo', why: 'secret' }],
    };
    const { items } = await run(() => activities.carrySettings({ world, target: candidate, settings }));
    const by = new Map(items.map((item) => [item.name, item]));
    expect(by.get('work_mem')?.outcome).toBe('carried');
    expect(by.get('deadlock_timeout')?.outcome).toBe('carried');
    expect(by.get('pg_hba.conf')?.outcome).toBe('carried');
    expect(by.get('pg_ident.conf')?.outcome).toBe('same');
    expect(by.get('session_preload_libraries')?.why).toMatch(/no_such_library/);
    expect(by.get('temp_tablespaces')?.outcome).toBe('carried');
    for (const name of [
      'no_such_setting',
      'session_preload_libraries',
      'archive_command',
      'primary_conninfo',
      'my app.x',
    ]) {
      expect(by.get(name), name).toMatchObject({ outcome: 'refused' });
    }
    expect(
      await servers.sql(
        candidate.pod,
        'postgres',
        `SELECT name || '=' || setting FROM pg_file_settings WHERE sourcefile LIKE '%auto.conf' AND name IN ('work_mem', 'temp_tablespaces') ORDER BY 1`,
      ),
    ).toBe('temp_tablespaces=pg_default, pg_default\nwork_mem=5MB\n');
    const hba = await servers.run(candidate.pod, 'cat "$PGDATA/pg_hba.conf"');
    expect(hba).toBe(saved.hba);
    const again = await run(() => activities.carrySettings({ world, target: candidate, settings }));
    expect(again.items.filter(({ outcome }) => outcome === 'carried')).toEqual([]);
  });

  it('lifts the fence, ends what the candidate still does, and pg_hba.conf is what it was', async () => {
    const lift = () =>
      run(() => activities.liftSourceFence({ world: servers.world, database, hbaFile: facts.hbaFile }));
    const dumping = servers.run(
      servers.candidate.pod,
      'PGPASSWORD="$POSTGRES_PASSWORD" PGAPPNAME=pgleap psql -XAtw -h "$1" -U "$2" -d postgres -c "SELECT pg_sleep(60)" 2>&1 || true',
      servers.sourceIp,
      superuser,
    );
    await expect
      .poll(() =>
        servers.sql(
          servers.sourcePod,
          'postgres',
          "SELECT count(*) FROM pg_stat_activity WHERE query ~ '^SELECT pg_sleep'",
        ),
      )
      .toBe('1\n');
    await lift();
    expect(await dumping).toMatch(/terminating connection/);
    expect(await statOf(facts.hbaFile)).toBe(hbaBefore);
    expect(await servers.run(servers.sourcePod, 'ls "$(dirname "$1")" | grep pgleap || true', facts.hbaFile)).toBe('');
    expect(await login('site', 'site')).toBe('1');
    await lift();
    expect(await statOf(facts.hbaFile)).toBe(hbaBefore);

    // With a wrong line the server does not read what came back, and goes on with the fence.
    await servers.run(servers.sourcePod, 'cp -p "$1" /tmp/hba && echo "host nonsense" >>"$1"', facts.hbaFile);
    const { checks } = await inspect();
    expect(checks.find(({ id }) => id === 'source.hba-valid')?.status).toBe('FAILED');
    await fence();
    const words = await failureOf(lift(), 'CommandFailed', secrets);
    expect(words.message).toMatch(/line \d+: end-of-line before/);
    await servers.run(servers.sourcePod, 'cp -p /tmp/hba "$1"', facts.hbaFile);
    await lift();
    expect(await login('site', 'site')).toBe('1');
  });

  it('observes sessions, transactions and probes', async () => {
    const { source } = servers;
    const busy = login('site', 'site', 'SELECT pg_sleep(6)');
    const seen = await run(() => activities.observeDatabase({ spec, server: source }));
    expect(seen).toMatchObject({ sessions: 1, logins: ['site'], probeMs: [expect.any(Number), expect.any(Number)] });
    await busy;
  });

  it('counts every error of an import, and knows which may pass', async () => {
    const { target, world } = servers;
    const sql = [
      `CREATE ROLE ${superuser};`,
      'CREATE DATABASE postgres;',
      'CREATE TABLE t (a int PRIMARY KEY);',
      'COPY t FROM stdin;\n1\n1\n\\.',
      'SELECT * FROM no_such_table;',
      '\\restrict',
    ].join('\n');
    const text = await servers.run(
      target.pod,
      'printf "%s\\n" "$1" | gzip -c > /pgleap/bad.sql.gz; sha512sum < /pgleap/bad.sql.gz',
      sql,
    );
    const imported = await run(() =>
      activities.importDump({
        world,
        server: target,
        path: '/pgleap/bad.sql.gz',
        compression: 'gzip',
        sha512: text.slice(0, 128),
        name: 'bad',
      }),
    );
    expect(imported.expected.map(({ sqlstate, line }) => [sqlstate, line])).toEqual([
      ['42710', 1],
      ['42P04', 2],
    ]);
    expect(imported.unexpected.map(({ sqlstate, line }) => [sqlstate, line])).toEqual([
      ['23505', 7],
      ['42P01', 8],
      ['?', 9],
    ]);
  });

  it('finds the fingerprint of a server again, but not after it was restarted in its pod', async () => {
    const { target } = servers;
    const first = await fingerprint(target, 'again');
    await servers.sql(target.pod, 'postgres', 'CREATE TABLE lost (a int)');
    expect(await fingerprint(target, 'again')).toEqual(first);
    const began = () => servers.sql(target.pod, 'postgres', 'SELECT pg_postmaster_start_time()');
    const life = await began();
    await servers.run(target.pod, 'kill -INT 1').catch(() => {});
    await expect
      .poll(async () => (await began().catch(() => life)) !== life, { timeout: 60_000, interval: 500 })
      .toBe(true);
    const second = await fingerprint(target, 'again');
    expect(second.sha512).not.toBe(first.sha512);
    // One process that crashes takes the others with it, and the rows of unlogged tables; the postmaster stays.
    const crashed = await servers.sql(
      target.pod,
      'postgres',
      `CREATE TABLE lost_again (a int); SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'`,
    );
    await servers.run(target.pod, 'kill -KILL "$1"', crashed.trim());
    await expect
      .poll(async () => (await fingerprint(target, 'again').catch(() => second)).sha512, {
        timeout: 60_000,
        interval: 500,
      })
      .not.toBe(second.sha512);
  });

  it('says so when what lay on the scratch volume is gone', async () => {
    const { world, stranger } = servers;
    const server = { ...servers.candidate, pod: stranger };
    const arg = { world, server, path: '/pgleap/no.sql.gz', compression: 'gzip' as const, sha512: 'x', name: 'lost' };
    const words = await failureOf(
      run(() => activities.importDump(arg)),
      'ScratchLost',
      secrets,
    );
    expect(words.message).toContain('/pgleap/no.sql.gz');
    await servers.run(stranger, 'rm -rf /pgleap/* 2>/dev/null; rm -rf /pgleap/*');
    for (const look of [() => activities.tryLogins({ world, server }), () => fingerprint(server, 'lost')])
      await failureOf(run<unknown>(look), 'ScratchLost', secrets);
  });

  it('acts on the planned pod only', async () => {
    const { world, candidate } = servers;
    const other = { ...candidate, pod: { ...candidate.pod, uid: 'another' } };
    await failureOf(fingerprint(other, 'x'), 'PodLost', secrets);
    await failureOf(
      run(() => activities.fingerprint({ world: { ...world, clusterUid: 'x' }, server: candidate, name: 'x' })),
      'WrongWorld',
      secrets,
    );
  });
});
