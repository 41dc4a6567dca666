# Read by bash before every other script here. Its first arguments say how the server is reached: an empty host means its
# unix socket. The password for TCP is the pod's own and stays in this process's environment: no argv ever holds it.
set -Eeuo pipefail
umask 077
export LC_ALL=C
unset PGHOST PGHOSTADDR PGSERVICE PGSERVICEFILE PGDATABASE PGPASSFILE PGSYSCONFDIR PGSSLMODE PGOPTIONS PGCLIENTENCODING
# A session's own settings, which would beat those of PGOPTIONS.
unset PGTZ PGDATESTYLE PGGEQO
if [ -n "$1" ]; then
  export PGHOST="$1"
  if [ -n "${POSTGRES_PASSWORD-}" ]; then
    export PGPASSWORD="$POSTGRES_PASSWORD"
  elif [ -n "${POSTGRES_PASSWORD_FILE-}" ]; then
    PGPASSWORD="$(cat "$POSTGRES_PASSWORD_FILE")"
    export PGPASSWORD
  fi
fi
export PGPORT="$2" PGUSER="$3" PGDATABASE=postgres PGAPPNAME=pgleap PGCONNECT_TIMEOUT=20
superuser="$3"
shift 3

say() { printf '%s\n' "$*" >&2; }

# All $1 bytes of stdin, or none and the end: half a statement or file must do nothing. The API's older protocol cannot tell
# that input has ended, and a connection may break in the middle, or die without a word and come to life when nobody waits.
input() {
  local text
  text=$(timeout 20 head -c "$1" && printf x) || true
  [ ${#text} -eq $(($1 + 1)) ] || { say 'pgleap: the input arrived incomplete'; exit 75; }
  printf '%s' "${text%x}"
}

# One SQL script on stdin, its rows on stdout. A database is named by PGDATABASE, because -d would read a = or a URI in it.
# pg_dump must not see this encoding: it takes each database's own.
sql() { PGCLIENTENCODING="${encoding-UTF8}" psql -X -q -A -t -w -v ON_ERROR_STOP=1 -v VERBOSITY=verbose "$@"; }
