# Every role that may log in does so over the socket, into a database that it may enter. Names of those that cannot are on
# stdout, each ended by NUL, after the number of those that tried.
export PGOPTIONS='-c client_min_messages=error'
sql -0 <<'SQL' >roles
SELECT unnest(ARRAY[r.rolname::text, (SELECT d.datname::text FROM pg_database AS d WHERE d.datallowconn AND NOT d.datistemplate
  AND has_database_privilege(r.oid, d.oid, 'CONNECT') ORDER BY d.datname = 'postgres', d.datname LIMIT 1)])
FROM pg_roles AS r WHERE r.rolcanlogin AND r.rolconnlimit <> 0 AND r.oid >= 16384
  AND EXISTS (SELECT FROM pg_database AS d WHERE d.datallowconn AND NOT d.datistemplate AND has_database_privilege(r.oid, d.oid, 'CONNECT'))
SQL
mapfile -d '' -t names <roles
total=$((${#names[@]} / 2))
: >failed
for ((i = 0; i < total; i++)); do
  PGUSER="${names[i * 2]}" PGDATABASE="${names[i * 2 + 1]}" sql <<<'SELECT 1' >/dev/null 2>login.err || {
    printf '%s: %s\0' "${names[i * 2]}" "$(head -n 1 login.err)" >>failed
  }
  echo "$((i + 1)) $total" >progress
done
printf '%s\0' "$total"
cat failed
