# Imports a dump into an empty server of the upgrade's own, over its unix socket. Errors of SQL do not end it: they are on
# stderr, and judged by the caller.
# Arguments: dump file, compression (zstd or gzip), its SHA-512.
file="$1" compression="$2" expected="$3"
# The container's log is read by more people than the dump: statements, which set passwords, and rows of it stay out, also
# where the dump itself brings settings of databases and roles that log them.
export PGOPTIONS='-c log_min_messages=fatal -c log_min_error_statement=panic -c client_min_messages=warning -c lc_messages=C -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=off'

if [ ! -e "$file" ]; then exit 73; fi
actual=$(sha512sum <"$file")
if [ "${actual%% *}" != "$expected" ]; then
  say "pgleap: the dump's SHA-512 is ${actual%% *}"
  exit 70
fi

# Never into a server that anybody else could have reached.
addresses=$(sql <<<'SHOW listen_addresses')
if [ -n "${PGHOST-}" ] || [ -n "$addresses" ]; then
  say 'pgleap: the server is not fenced: it listens on TCP'
  exit 71
fi
sql -0 <<<'SELECT datname FROM pg_database WHERE datallowconn' >databases
while IFS= read -r -d '' database; do
  objects=$(PGDATABASE="$database" sql <<<"SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid >= 16384 AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'")
  if [ "$objects" != 0 ]; then
    say "pgleap: database $database holds $objects relations already"
    exit 72
  fi
done <databases
# The image makes an empty database of POSTGRES_DB's name; the dump brings its own, with its own encoding and locale.
sql <<'SQL'
SELECT format('DROP DATABASE %I', datname) FROM pg_database WHERE datname NOT IN ('template0', 'template1', 'postgres') \gexec
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
    # The script waits for this loop at its end.
    sleep 0.2
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
[ $rc -eq 0 ] || exit $rc
printf '{"seconds":%s}\n' "$SECONDS"
