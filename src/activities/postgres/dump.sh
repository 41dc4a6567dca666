# pg_dumpall of the target's version, compressed, to one file; then its SHA-512.
# Arguments: dump file, compression (zstd or gzip), expected bytes before compression (0: unknown).
file="$1" compression="$2" estimate="$3"
export PGOPTIONS='-c client_min_messages=warning -c lc_messages=C -c statement_timeout=0 -c default_transaction_read_only=on -c lock_timeout=60s -c idle_in_transaction_session_timeout=0'

# In the place of its shell, so that what its process has read is what was compressed.
compress() {
  if [ "$compression" = zstd ]; then
    exec zstd -q -3 -T0 -c
  elif command -v pigz >/dev/null; then
    exec pigz -1 -c
  else
    exec gzip -1 -c
  fi
}

# What pg_dumpall leaves out without --clean: owner, ACL, comment and settings of the databases postgres and template1, and
# ALTER ROLE ALL SET. The list is taken from an archive's table of contents, not from SQL text that a user may have shaped.
supplement() {
  local db
  for db in postgres template1; do
    PGDATABASE="$db" pg_dump -w -Fc -C -s -N '*' --quote-all-identifiers -f "$db.archive"
    pg_restore -l -C "$db.archive" |
      sed -n -E '/^[0-9]+; [0-9]+ [0-9]+ (DATABASE PROPERTIES -|(ACL|COMMENT|SECURITY LABEL) - DATABASE) /p' >"$db.list"
    # -C brings CREATE DATABASE along: every server has these two already.
    [ ! -s "$db.list" ] || pg_restore -C -L "$db.list" -f - "$db.archive" | grep -v "^CREATE DATABASE \"$db\" WITH TEMPLATE"
    rm -f "$db.archive" "$db.list"
  done
  sql <<'SQL'
SELECT format('ALTER DATABASE %I OWNER TO %I;', datname, pg_get_userbyid(datdba))
FROM pg_database WHERE datname IN ('postgres', 'template1') AND datdba <> 10;
-- A list is stored already quoted element by element; as one literal it would become one element.
SELECT format(CASE WHEN name IN ('local_preload_libraries', 'search_path', 'session_preload_libraries', 'temp_tablespaces')
  THEN 'ALTER ROLE ALL SET %I TO %s;' ELSE 'ALTER ROLE ALL SET %I TO %L;' END, name, value)
FROM pg_db_role_setting, unnest(setconfig) AS item,
  LATERAL (SELECT split_part(item, '=', 1) AS name, substr(item, strpos(item, '=') + 1) AS value) AS parts
WHERE setdatabase = 0 AND setrole = 0;
SQL
}

produce() {
  pg_dumpall -w --quote-all-identifiers --lock-wait-timeout=60000 | tee last.pipe
  # A file of the archive format cannot be read from a pipe, so that its parts are made only now.
  wait "$last"
  grep -qx -e '-- PostgreSQL database cluster dump complete' last || {
    say 'pgleap: pg_dumpall ended without its last line'
    return 65
  }
  printf '\n--\n-- pgleap: what pg_dumpall leaves out\n--\n\n\\connect postgres\n\n'
  supplement
  printf '\n--\n-- PostgreSQL database cluster dump complete\n--\n\n'
}

rm -f last.pipe raw.pipe "$file.tmp"
mkfifo last.pipe raw.pipe
compress <raw.pipe >"$file.tmp" &
compressor=$!
# How much it has read is known only to the kernel; where that cannot be asked, progress stays unknown.
(
  while kill -0 $compressor 2>/dev/null; do
    if read -r _ bytes < <(grep '^rchar' "/proc/$compressor/io" 2>/dev/null); then
      echo "$bytes $([ "$estimate" -gt 0 ] && echo "$estimate" || echo -)" >progress
    fi
    # The script waits for this loop at its end.
    sleep 0.2
  done
) &
meter=$!
(
  tail -c 512 last.pipe >last &
  last=$!
  produce
) >raw.pipe &
producer=$!
# Not `if produce`: there bash would go on after an error inside.
rc=0
wait $producer || rc=$?
wait $compressor || rc=$?
if [ $rc -ne 0 ]; then
  wait
  rm -f "$file.tmp"
  exit $rc
fi
wait $meter
rm -f last.pipe raw.pipe
sync -d "$file.tmp" 2>/dev/null || sync
sum=$(sha512sum <"$file.tmp")
bytes=$(stat -c %s "$file.tmp")
mv "$file.tmp" "$file"
sync "$(dirname "$file")" 2>/dev/null || sync
printf '{"sha512":"%s","bytes":%s,"seconds":%s}\n' "${sum%% *}" "$bytes" "$SECONDS"
