#!/usr/bin/env bash
# What the official postgres image's entrypoint does, as far as a manifest, an upgrade or an operator can tell.
set -Eeo pipefail

die() {
  printf '%s\n' "$@" >&2
  exit 1
}

# VAR from the environment, or from the file that VAR_FILE names, or the default; both at once is a mistake.
from_env_or_file() {
  local name=$1 fallback=${2:-} file_name="${1}_FILE"
  if [ -n "${!name:-}" ] && [ -n "${!file_name:-}" ]; then
    die "error: both $name and $file_name are set (but are exclusive)"
  fi
  local value=${!name:-$fallback}
  if [ -n "${!file_name:-}" ]; then value=$(<"${!file_name}"); fi
  export "$name=$value"
  unset "$file_name"
}

refuse_old_layout() {
  [ "$PG_MAJOR" -ge 18 ] && [ "$PGDATA" = "/var/lib/postgresql/$PG_MAJOR/docker" ] || return 0
  local found=() directory
  for directory in /var/lib/postgresql /var/lib/postgresql/data /var/lib/postgresql/*/docker; do
    if [ -s "$directory/PG_VERSION" ]; then found+=("$directory"); fi
  done
  if [ ${#found[@]} -eq 0 ] && mountpoint -q /var/lib/postgresql/data; then
    found+=('/var/lib/postgresql/data (unused mount/volume)')
  fi
  [ ${#found[@]} -gt 0 ] || return 0
  die 'Error: in 18+, these Docker images are configured to store database data in a' \
    '       format which is compatible with "pg_ctlcluster" (specifically, using' \
    '       major-version-specific directory names).' \
    '' \
    '       Counter to that, there appears to be PostgreSQL data in:' \
    "         ${found[*]}" \
    '' \
    '       The suggested container configuration for 18+ is to place a single mount' \
    '       at /var/lib/postgresql which will then place PostgreSQL data in a' \
    '       subdirectory, or to set PGDATA.'
}

require_password() {
  [ -n "$POSTGRES_PASSWORD" ] || [ "$POSTGRES_HOST_AUTH_METHOD" = trust ] && return 0
  die 'Error: Database is uninitialized and superuser password is not specified.' \
    '       You must specify POSTGRES_PASSWORD to a non-empty value for the' \
    '       superuser. For example, "-e POSTGRES_PASSWORD=password" on "docker run".'
}

initialise() {
  local waldir=()
  if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then waldir=(--waldir "$POSTGRES_INITDB_WALDIR"); fi
  # POSTGRES_INITDB_ARGS is shell words by contract, as in the official image.
  eval 'initdb --username="$POSTGRES_USER" --pwfile=<(printf "%s\n" "$POSTGRES_PASSWORD") "${waldir[@]}" '"$POSTGRES_INITDB_ARGS"
  local method=$POSTGRES_HOST_AUTH_METHOD
  if [ -z "$method" ]; then method=$(postgres -C password_encryption "${@:2}"); fi
  printf '\nhost all all all %s\n' "$method" >>"$PGDATA/pg_hba.conf"
}

run_sql() {
  PGHOST='' PGHOSTADDR='' psql -v ON_ERROR_STOP=1 --username "$POSTGRES_USER" --no-password --no-psqlrc "$@"
}

run_init_scripts() {
  local file
  for file in /docker-entrypoint-initdb.d/*; do
    case $file in
      *.sh)
        printf '%s: running %s\n' "$0" "$file"
        if [ -x "$file" ]; then "$file"; else . "$file"; fi
        ;;
      *.sql) printf '%s: running %s\n' "$0" "$file"; run_sql --dbname "$POSTGRES_DB" -f "$file" ;;
      *.sql.gz) printf '%s: running %s\n' "$0" "$file"; gunzip -c "$file" | run_sql --dbname "$POSTGRES_DB" ;;
      *.sql.xz) printf '%s: running %s\n' "$0" "$file"; xzcat "$file" | run_sql --dbname "$POSTGRES_DB" ;;
      *.sql.zst) printf '%s: running %s\n' "$0" "$file"; zstd -dc "$file" | run_sql --dbname "$POSTGRES_DB" ;;
      '/docker-entrypoint-initdb.d/*') ;;
      *) printf '%s: ignoring %s\n' "$0" "$file" ;;
    esac
  done
}

main() {
  if [ "${1:0:1}" = '-' ]; then set -- postgres "$@"; fi
  local argument
  if [ "$1" = postgres ]; then
    for argument; do
      case $argument in
        -'?' | --help | --describe-config | -V | --version) exec "$@" ;;
      esac
    done
  else
    exec "$@"
  fi

  from_env_or_file POSTGRES_PASSWORD
  from_env_or_file POSTGRES_USER postgres
  from_env_or_file POSTGRES_DB "$POSTGRES_USER"
  from_env_or_file POSTGRES_INITDB_ARGS
  : "${POSTGRES_HOST_AUTH_METHOD:=}"

  mkdir -p "$PGDATA"
  chmod 00700 "$PGDATA" || :
  mkdir -p /var/run/postgresql
  chmod 03775 /var/run/postgresql || :
  if [ "$(id -u)" = 0 ]; then
    if [ -n "${POSTGRES_INITDB_WALDIR:-}" ]; then
      mkdir -p "$POSTGRES_INITDB_WALDIR"
      find "$POSTGRES_INITDB_WALDIR" \! -user postgres -exec chown postgres '{}' +
    fi
    find "$PGDATA" \! -user postgres -exec chown postgres '{}' +
    find /var/run/postgresql \! -user postgres -exec chown postgres '{}' +
    HOME=/var/lib/postgresql exec setpriv --reuid=postgres --regid=postgres --init-groups -- bash "${BASH_SOURCE[0]}" "$@"
  fi

  if [ -s "$PGDATA/PG_VERSION" ]; then
    printf '\nPostgreSQL Database directory appears to contain a database; Skipping initialization\n\n'
    exec "$@"
  fi
  refuse_old_layout
  require_password
  initialise "$@"

  # Only on the socket: nobody may see the half-made database over the network.
  export PGPASSWORD=${PGPASSWORD:-$POSTGRES_PASSWORD}
  local options
  options=$(printf '%q ' "${@:2}" -c listen_addresses='' -p "${PGPORT:-5432}")
  NOTIFY_SOCKET= PGUSER="${PGUSER:-$POSTGRES_USER}" pg_ctl -D "$PGDATA" -o "$options" -w start
  if [ "$POSTGRES_DB" != postgres ] &&
    [ -z "$(run_sql --dbname postgres --tuples-only --set db="$POSTGRES_DB" <<<"SELECT 1 FROM pg_database WHERE datname = :'db'")" ]; then
    run_sql --dbname postgres --set db="$POSTGRES_DB" <<<'CREATE DATABASE :"db"'
  fi
  run_init_scripts
  PGUSER="${PGUSER:-postgres}" pg_ctl -D "$PGDATA" -m fast -w stop
  unset PGPASSWORD
  printf '\nPostgreSQL init process complete; ready for start up.\n\n'
  exec "$@"
}

main "$@"
