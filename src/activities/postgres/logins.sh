# Every role that may log in does so over the socket, into a database that it may enter. On stdout, each ended by NUL: the
# number of those that tried, of those that cannot, and the first 20 names of these with the server's words.
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
failures=0
for ((i = 0; i < total; i++)); do
  PGUSER="${names[i * 2]}" PGDATABASE="${names[i * 2 + 1]}" sql <<<'SELECT 1' >/dev/null 2>login.err || {
    failures=$((failures + 1))
    [ $failures -gt 20 ] || printf '%s: %s\0' "${names[i * 2]}" "$(head -n 1 login.err | head -c 300)" >>failed
  }
  echo "$((i + 1)) $total" >progress
done
printf '%s\0' "$total" "$failures"
cat failed
