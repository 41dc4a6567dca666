# Imports a dump into an empty server of the upgrade's own, over its unix socket, from the first byte: what an import that
# broke off left behind is removed before. Errors of SQL do not end it: they are on stderr, and judged by the caller.
# Arguments: dump file, compression (zstd or gzip), its SHA-512, a file that marks this server as imported into before.
file="$1" compression="$2" expected="$3" mark="$4"
export PGOPTIONS='-c client_min_messages=warning -c lc_messages=C -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off'

actual=$(sha512sum <"$file")
if [ "${actual%% *}" != "$expected" ]; then
  say "pgleap: the dump's SHA-512 is ${actual%% *}"
  exit 70
fi

# Nothing is ever dropped from a server that anybody else could have reached.
if [ -n "${PGHOST-}" ] || [ "$(sql <<<'SHOW listen_addresses')" != '' ]; then
  say 'pgleap: the server is not fenced: it listens on TCP'
  exit 71
fi
held() {
  local database objects
  sql -0 <<<"SELECT datname FROM pg_database WHERE datallowconn" >databases
  while IFS= read -r -d '' database; do
    objects=$(PGDATABASE="$database" sql <<<"SELECT count(*) FROM pg_class WHERE oid >= 16384 AND relnamespace::regnamespace::text !~ '^(pg_|information_schema)'")
    if [ "$objects" != 0 ]; then
      say "pgleap: database $database holds $objects relations already"
      return 1
    fi
  done <databases
}
[ -e "$mark" ] || held || exit 72
touch "$mark"
sync "$mark" 2>/dev/null || sync

# Everything but the bootstrap role, and of the databases only what initdb makes.
PGDATABASE=template1 sql <<'SQL'
SELECT format('ALTER DATABASE %I IS_TEMPLATE false', datname) FROM pg_database WHERE datistemplate AND datname NOT IN ('template0', 'template1') \gexec
SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database WHERE datname NOT IN ('template0', 'template1') \gexec
SQL
remake() { # database, template, connection to make it from
  PGDATABASE="$3" sql -v name="$1" <<'SQL'
SELECT format('CREATE DATABASE %I WITH TEMPLATE template0', :'name') \gexec
SQL
}
remake postgres template0 template1
sql <<'SQL'
ALTER DATABASE template1 IS_TEMPLATE false;
DROP DATABASE template1 WITH (FORCE);
CREATE DATABASE template1 WITH TEMPLATE template0 IS_TEMPLATE true;
REVOKE CREATE, TEMPORARY ON DATABASE template1 FROM PUBLIC;
COMMENT ON DATABASE template1 IS 'default template for new databases';
COMMENT ON DATABASE postgres IS 'default administrative connection database';
ALTER ROLE ALL RESET ALL;
SELECT format('DROP OWNED BY %I', rolname) FROM pg_roles WHERE oid >= 16384 \gexec
SELECT format('DROP ROLE %I', rolname) FROM pg_roles WHERE oid >= 16384 \gexec
SELECT format('ALTER ROLE %I RESET ALL', rolname) FROM pg_roles WHERE oid = 10 \gexec
SELECT format('COMMENT ON ROLE %I IS NULL', rolname) FROM pg_roles WHERE oid = 10 \gexec
SELECT format('REVOKE %I FROM %I', pg_get_userbyid(roleid), pg_get_userbyid(member)) FROM pg_auth_members WHERE member = 10 \gexec
SQL

unpack() { if [ "$compression" = zstd ]; then exec zstd -q -dc; else exec gzip -dc; fi; }
total=$(stat -c %s "$file")
rm -f stream.pipe
mkfifo stream.pipe
(unpack) <"$file" >stream.pipe &
unpacker=$!
# How far it has read is in the kernel's note of its open file.
(
  while kill -0 $unpacker 2>/dev/null; do
    if read -r _ at < <(grep '^pos:' "/proc/$unpacker/fdinfo/0" 2>/dev/null); then echo "$at $total" >progress; fi
    sleep 1
  done
) &
meter=$!
rc=0
psql -X -q -w -v VERBOSITY=verbose -v ON_ERROR_STOP=0 -f - <stream.pipe >/dev/null || rc=$?
if [ $rc -ne 0 ]; then say "pgleap: psql ended with $rc"; fi
# When psql ended early, the unpacker ends by a closed pipe.
wait $unpacker || { [ $rc -ne 0 ] || rc=$?; }
wait $meter
rm -f stream.pipe
if [ $rc -eq 0 ]; then echo "$total $total" >progress; fi
exit $rc
