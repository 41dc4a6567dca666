# Statistics for all tables, two at a time; without vacuumdb one database after the other.
export PGOPTIONS='-c client_min_messages=warning -c lc_messages=C -c statement_timeout=0 -c lock_timeout=0 -c default_transaction_read_only=off'
version=$(sql <<<'SHOW server_version_num')
[ "$version" -lt 170000 ] || PGOPTIONS+=' -c transaction_timeout=0'
if command -v vacuumdb >/dev/null; then
  vacuumdb -w -q --all --analyze-only -j 2
else
  sql -0 <<<'SELECT datname FROM pg_database WHERE datallowconn' >databases
  while IFS= read -r -d '' database; do PGDATABASE="$database" sql <<<'ANALYZE'; done <databases
fi
printf '{"seconds":%s}\n' "$SECONDS"
