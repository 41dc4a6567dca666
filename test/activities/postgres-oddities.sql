-- More of what real servers hold than the example does, for the tests that compare servers.
\set ON_ERROR_STOP on
SET client_min_messages = error;
CREATE ROLE "odd Role""ü" LOGIN PASSWORD 'x1' CONNECTION LIMIT 7 VALID UNTIL '2031-01-01';
CREATE ROLE app LOGIN PASSWORD 'app-pw';
CREATE ROLE reader NOLOGIN;
CREATE ROLE owner_grp NOLOGIN CREATEROLE;
CREATE ROLE noinh LOGIN NOINHERIT PASSWORD 'z';
CREATE ROLE outsider LOGIN PASSWORD 'o';
GRANT reader TO app WITH ADMIN OPTION;
GRANT reader TO "odd Role""ü";
GRANT owner_grp TO noinh;
GRANT pg_monitor TO app;
COMMENT ON ROLE app IS E'line1\nline2\ttab\\back';
ALTER ROLE app SET search_path = '$user', 'we ird', public;
ALTER ROLE ALL SET search_path = "$user", public, "we ird";
ALTER ROLE ALL SET myapp.x = 'a''b';
ALTER DATABASE postgres SET work_mem = '5MB';
ALTER ROLE app IN DATABASE postgres SET work_mem = '6MB';
COMMENT ON DATABASE postgres IS 'my own comment''s';
GRANT CREATE ON DATABASE postgres TO app;
GRANT SET ON PARAMETER log_min_duration_statement TO app;
ALTER DATABASE template1 CONNECTION LIMIT 33;
ALTER DATABASE template1 OWNER TO app;
CREATE DATABASE "Shop ""prod"" ü\b=1" OWNER app;
CREATE DATABASE latin ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0;
CREATE DATABASE ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0;
\connect template1
CREATE TABLE in_template (a int);
INSERT INTO in_template VALUES (1);
\connect ascii
SET client_encoding = 'SQL_ASCII';
CREATE TABLE t (a text);
INSERT INTO t VALUES (E'\xff\xfe'), ('b');
\connect latin
SET client_encoding = 'UTF8';
CREATE TABLE "tä" (a text);
INSERT INTO "tä" VALUES ('äöü');
\connect -reuse-previous=on "dbname='Shop ""prod"" ü\\b=1'"
SET client_min_messages = error;
CREATE SCHEMA "we ird" AUTHORIZATION app;
CREATE SCHEMA audit;
CREATE TABLE "we ird"."Tab""le
newline	tab\back ü"("Col A" int primary key, "select" text, "ü
x" numeric(10,2) default 1.5, j jsonb, f float8, ts timestamptz default now(), iv interval, b bytea);
INSERT INTO "we ird"."Tab""le
newline	tab\back ü" SELECT g, 'v'||g||E'\n\t\\', g/3.0, jsonb_build_object('a',g), g/7.0, '2024-01-01'::timestamptz + g*interval '1h', g*interval '1 min', decode('00ff','hex') FROM generate_series(1,2000) g;
CREATE TABLE parent(id serial primary key, name text not null, CONSTRAINT chk CHECK (name <> '' AND name IS NOT NULL));
CREATE TABLE child(extra int not null) INHERITS (parent);
CREATE TABLE child2(name text, extra2 int) INHERITS (parent);
ALTER TABLE parent ADD COLUMN later int NOT NULL DEFAULT 5;
INSERT INTO parent(name) VALUES ('p1'); INSERT INTO child(name, extra) VALUES('c1',3); INSERT INTO child2(name, extra2) VALUES('c2',3);
CREATE TABLE part(id int not null, k text, PRIMARY KEY(id,k)) PARTITION BY LIST(k);
CREATE TABLE part_a PARTITION OF part FOR VALUES IN ('a'); CREATE TABLE part_b PARTITION OF part FOR VALUES IN ('b') PARTITION BY RANGE(id);
CREATE TABLE part_b1 PARTITION OF part_b FOR VALUES FROM (0) TO (1000); CREATE TABLE part_def(id int not null, k text not null); ALTER TABLE part ATTACH PARTITION part_def DEFAULT;
INSERT INTO part SELECT g, (ARRAY['a','b','c'])[1+g%3] FROM generate_series(1,300) g;
CREATE TABLE longname_aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa(columnname_bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb int NOT NULL);
CREATE TABLE renamed_old(a int not null); ALTER TABLE renamed_old RENAME TO renamed_new;
CREATE DOMAIN posint AS int NOT NULL DEFAULT 1 CHECK (VALUE > 0);
CREATE TYPE mood AS ENUM ('sad','ok','it''s');
CREATE TYPE comp AS (a int, b text);
CREATE TABLE types_t(id bigint generated always as identity (start 10 increment 5), m mood, c comp, p posint, g int generated always as (2*3) stored, r int4range, a text[], rc regclass, mny money, "t" text, nul text);
INSERT INTO types_t(m,c,p,r,a,rc,mny) VALUES ('sad',(1,'x'),4,'[1,5)','{a,"b c"}','parent','12.34');
CREATE UNLOGGED TABLE unlog(a int); INSERT INTO unlog VALUES (1);
CREATE TABLE zerocol(); INSERT INTO zerocol DEFAULT VALUES;
CREATE VIEW v1 AS SELECT p.id, p.name, count(*) AS n FROM parent p JOIN part ON part.id = p.id WHERE p.name LIKE '%x.y%' GROUP BY p.id;
CREATE VIEW v2 WITH (security_barrier) AS SELECT t."Col A", t."select" FROM "we ird"."Tab""le
newline	tab\back ü" t WHERE t."select" <> '(a) "b". c' UNION ALL SELECT 1, 'x' ORDER BY 1;
CREATE VIEW v3 AS WITH RECURSIVE q AS (SELECT 1 AS x UNION ALL SELECT q.x+1 FROM q WHERE q.x < 10) SELECT q.x, extract(year FROM now()) y, extract('Month' FROM now()) m, extract('"day"' FROM now()) d, current_date c FROM q;
CREATE VIEW v4 AS SELECT * FROM v1 LEFT JOIN LATERAL (SELECT max(c.extra) AS mx FROM child c WHERE c.id = v1.id) l ON true;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM parent; CREATE MATERIALIZED VIEW mv0 AS SELECT 1 AS a WITH NO DATA;
INSERT INTO parent(name) VALUES ('stale');
CREATE UNIQUE INDEX mv_i ON mv(n);
CREATE INDEX ix ON parent (lower(name)) WHERE name IS NOT NULL; CREATE STATISTICS st ON id, k FROM part;
CREATE FUNCTION f1(a int, b text DEFAULT 'x''y') RETURNS int LANGUAGE plpgsql SECURITY DEFINER SET search_path = public AS $$
BEGIN
--
-- Name: fake; Type: TABLE; Schema: public; Owner: app
--
SET default_tablespace = 'x';
RETURN a + (SELECT count(*) FROM parent);
END $$;
CREATE FUNCTION f2(a int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT p.id + a FROM parent p WHERE p.id = a; END;
CREATE PROCEDURE pr() LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION trg() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER tr BEFORE UPDATE OF name ON parent FOR EACH ROW WHEN (OLD.name IS DISTINCT FROM NEW.name) EXECUTE FUNCTION trg();
CREATE RULE rl AS ON DELETE TO types_t DO ALSO INSERT INTO unlog SELECT old.id::int;
ALTER TABLE parent ENABLE ROW LEVEL SECURITY;
CREATE POLICY pol ON parent FOR SELECT TO app USING (EXISTS (SELECT 1 FROM part WHERE part.id = parent.id));
CREATE AGGREGATE agg(int) (SFUNC = int4pl, STYPE = int, INITCOND='0');
CREATE OPERATOR === (LEFTARG=int, RIGHTARG=int, FUNCTION=int4eq);
CREATE CAST (text AS mood) WITH INOUT;
CREATE COLLATION coll (provider=libc, locale='C');
CREATE TABLE collated(a text COLLATE coll); INSERT INTO collated VALUES ('b'),('a');
CREATE SEQUENCE "Seq ü" START 5 INCREMENT 3 CYCLE MAXVALUE 100 OWNED BY types_t.p; SELECT nextval('"Seq ü"'), nextval('"Seq ü"');
CREATE SEQUENCE untouched;
SELECT lo_from_bytea(4711, 'hello large object'::bytea); SELECT lo_from_bytea(4712, convert_to(repeat('x',10000),'UTF8')); SELECT lo_create(4713); SELECT lo_put(4713, 9000, 'sparse');
ALTER LARGE OBJECT 4712 OWNER TO app; GRANT SELECT ON LARGE OBJECT 4711 TO reader; COMMENT ON LARGE OBJECT 4711 IS 'blob';
GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader; GRANT UPDATE(name) ON parent TO app WITH GRANT OPTION; GRANT INSERT ON parent TO "odd Role""ü" WITH GRANT OPTION;
SET SESSION AUTHORIZATION "odd Role""ü"; GRANT INSERT ON public.parent TO noinh; RESET SESSION AUTHORIZATION;
ALTER TABLE child OWNER TO app; REVOKE ALL ON child FROM app; GRANT SELECT ON child TO app;
ALTER DEFAULT PRIVILEGES IN SCHEMA audit GRANT SELECT ON TABLES TO reader; ALTER DEFAULT PRIVILEGES FOR ROLE app REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
CREATE PUBLICATION pub FOR TABLE parent WHERE (id > 3); CREATE PUBLICATION puball FOR TABLES IN SCHEMA audit;
CREATE FUNCTION evt() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN RAISE DEBUG $a$x$a$; END'; CREATE EVENT TRIGGER et ON ddl_command_start EXECUTE FUNCTION evt(); 
CREATE TEXT SEARCH CONFIGURATION mycfg (COPY=english);
COMMENT ON TABLE parent IS E'multi\nline'; COMMENT ON COLUMN parent.name IS 'c';
ALTER TABLE parent ALTER COLUMN name SET STATISTICS 500; ALTER TABLE parent SET (fillfactor=70); ALTER TABLE parent REPLICA IDENTITY FULL; CLUSTER parent USING parent_pkey;
CREATE TABLE fkref(a int REFERENCES parent(id) ON DELETE CASCADE DEFERRABLE, EXCLUDE USING btree (a WITH =));
ALTER TABLE fkref ADD CONSTRAINT nv CHECK (a > 0) NOT VALID;
CREATE TYPE jt AS (j json, k "char"); CREATE FUNCTION jf(j json, x jt) RETURNS json LANGUAGE sql AS 'SELECT j'; CREATE TABLE jtab(j json, x jt); CREATE VIEW jview AS SELECT jf(j, x), json_build_object('a', 1)::json AS o FROM jtab;
CREATE TABLE refs (t regtype, p regprocedure); INSERT INTO refs VALUES ('json', 'jf(json, jt)');
