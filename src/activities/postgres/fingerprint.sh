# Writes what a server holds as one sorted text file: kind, database, name, value a line, apart by tabs. Values are counts,
# hashes and plain properties, never rows. Two servers of different majors with the same content give the same bytes.
# What may differ between them (versions, refreshed views, grantors) goes to a second file, `<file>.notes`.
# Argument: the file.
file="$1"
workers=2
hex="'hex'"
# The output of types and of a schema's dump depends on these.
export PGOPTIONS='-c client_min_messages=warning -c lc_messages=C -c statement_timeout=0 -c lock_timeout=60s -c idle_in_transaction_session_timeout=0 -c default_transaction_read_only=on -c search_path= -c DateStyle=ISO,YMD -c IntervalStyle=postgres -c TimeZone=UTC -c extra_float_digits=1 -c bytea_output=hex -c xmlbinary=base64 -c xmloption=content -c lc_monetary=C -c lc_numeric=C -c lc_time=C -c standard_conforming_strings=on -c row_security=off -c jit=off -c synchronize_seqscans=off -c max_parallel_workers_per_gather=0'
rm -rf work && mkdir work && cd work

# Names as a person would write them, quoted by a rule that no version's list of keywords changes.
plain="CASE WHEN %1 ~ '^[a-z_][a-z0-9_]*\$' THEN %1 ELSE '\"' || replace(%1, '\"', '\"\"') || '\"' END"
name_of() { printf '%s' "(${plain//%1/$1})"; }
# A field of the file: no tab, no line end.
field() { printf '%s' "replace(replace(replace(replace($1, E'\\\\', E'\\\\\\\\'), E'\\t', E'\\\\t'), E'\\n', E'\\\\n'), E'\\r', E'\\\\r')"; }
hash() { printf '%s' "encode(sha256(convert_to($1, getdatabaseencoding())), $hex)"; }
# Who may do what. MAINTAIN exists since 17, and a restore gives it to owners.
acl() { printf '%s' "(SELECT coalesce(string_agg(format('%s=%s%s/%s', CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_get_userbyid(a.grantee)::text END, a.privilege_type, CASE WHEN a.is_grantable THEN '*' END, pg_get_userbyid(a.grantor)), ' ' ORDER BY a.grantee = 0, pg_get_userbyid(a.grantee)::text COLLATE \"C\", a.privilege_type, pg_get_userbyid(a.grantor)::text COLLATE \"C\"), 'none') FROM aclexplode(coalesce($1, acldefault('$2', $3))) AS a WHERE a.privilege_type <> 'MAINTAIN' OR a.grantee <> $3)"; }

# lines KIND NAME VALUE <<< 'FROM …': one line for each row.
lines() { printf "SELECT concat_ws(E'\\\\t', '%s', %s, %s, %s) %s;\n" "$1" "${database-$(field "current_database()")}" "$(field "$2")" "$(field "$3")" "$(cat)"; }

numeric_version=$(sql <<<'SHOW server_version_num')
# A role's or a database's own; it is no option before.
[ "$numeric_version" -lt 170000 ] || PGOPTIONS+=' -c transaction_timeout=0'

# --- What belongs to the server as a whole ---------------------------------------------------------------------------
ours='(r.oid >= 16384 OR r.oid = 10)'
if [ "$numeric_version" -ge 160000 ]; then
  membership="format('admin=%s inherit=%s set=%s', m.admin_option, m.inherit_option, m.set_option)"
else
  # What a restore into 16 or later makes of it.
  membership="format('admin=%s inherit=%s set=t', m.admin_option, r.rolinherit)"
fi
# ICU locales are stored in their standard form since 16, and what that is depends on the library: de_AT becomes de-AT.
icu_apart="CASE d.datlocprovider WHEN 'i' THEN 'icu' ELSE"
if [ "$numeric_version" -ge 170000 ]; then
  locale="format('provider=%s locale=%s rules=%s', d.datlocprovider, $icu_apart d.datlocale END, d.daticurules)"
elif [ "$numeric_version" -ge 160000 ]; then
  locale="format('provider=%s locale=%s rules=%s', d.datlocprovider, $icu_apart d.daticulocale END, d.daticurules)"
elif [ "$numeric_version" -ge 150000 ]; then
  locale="format('provider=%s locale=%s rules=', d.datlocprovider, $icu_apart d.daticulocale END)"
else
  locale="'provider=c locale= rules='::text"
fi
database="''"
{
  lines role r.rolname "format('super=%s inherit=%s createrole=%s createdb=%s login=%s replication=%s bypassrls=%s connections=%s until=%s password=%s', r.rolsuper, r.rolinherit, r.rolcreaterole, r.rolcreatedb, r.rolcanlogin, r.rolreplication, r.rolbypassrls, r.rolconnlimit, r.rolvaliduntil, coalesce($(hash r.rolpassword), 'none'))" \
    <<<"FROM pg_authid AS r WHERE $ours"
  lines membership "format('%s of %s', $(name_of "r.rolname"), $(name_of "g.rolname"))" \
    "string_agg(DISTINCT $membership, '; ')" \
    <<<"FROM pg_auth_members AS m JOIN pg_authid AS r ON r.oid = m.member JOIN pg_authid AS g ON g.oid = m.roleid WHERE $ours GROUP BY r.rolname, g.rolname"
  lines setting "format('%s in %s: %s', coalesce(r.rolname, 'all roles'), coalesce(d.datname, 'all databases'), split_part(item, '=', 1))" \
    "$(hash "substr(item, strpos(item, '=') + 1)")" \
    <<<"FROM pg_db_role_setting AS s CROSS JOIN unnest(s.setconfig) AS item LEFT JOIN pg_database AS d ON d.oid = s.setdatabase LEFT JOIN pg_roles AS r ON r.oid = s.setrole WHERE s.setrole = 0 OR $ours"
  lines database d.datname "format('owner=%s encoding=%s collate=%s ctype=%s %s template=%s connect=%s connections=%s tablespace=%s acl=%s', pg_get_userbyid(d.datdba), pg_encoding_to_char(d.encoding), d.datcollate, d.datctype, $locale, d.datistemplate, d.datallowconn, d.datconnlimit, (SELECT spcname FROM pg_tablespace AS t WHERE t.oid = d.dattablespace), $(acl d.datacl d d.datdba))" \
    <<<"FROM pg_database AS d WHERE d.datname <> 'template0'"
  lines tablespace t.spcname "format('owner=%s options=%s acl=%s', pg_get_userbyid(t.spcowner), t.spcoptions, $(acl t.spcacl t t.spcowner))" \
    <<<"FROM pg_tablespace AS t WHERE t.oid >= 16384"
  shared="CASE c.classoid WHEN 'pg_catalog.pg_authid'::regclass THEN 'role ' || pg_get_userbyid(c.objoid) WHEN 'pg_catalog.pg_database'::regclass THEN 'database ' || (SELECT datname FROM pg_database WHERE oid = c.objoid) ELSE 'tablespace ' || (SELECT spcname FROM pg_tablespace WHERE oid = c.objoid) END"
  lines comment "$shared" "$(hash c.description)" \
    <<<"FROM pg_shdescription AS c WHERE (c.objoid >= 16384 OR c.objoid = 10 OR c.classoid = 'pg_catalog.pg_database'::regclass) AND NOT EXISTS (SELECT FROM pg_database WHERE oid = c.objoid AND datname = 'template0')"
  lines label "$shared" "$(hash "c.provider || '=' || c.label")" <<<"FROM pg_shseclabel AS c"
  if [ "$numeric_version" -ge 150000 ]; then
    lines parameter p.parname "$(acl p.paracl p 10)" <<<"FROM pg_parameter_acl AS p WHERE p.paracl IS NOT NULL"
  fi
} >shared.sql
{
  lines note "'server_version'" "current_setting('server_version')" </dev/null
  lines note "format('grantors of %s to %s', g.rolname, r.rolname)" "string_agg(pg_get_userbyid(m.grantor)::text, ' ')" \
    <<<"FROM pg_auth_members AS m JOIN pg_authid AS r ON r.oid = m.member JOIN pg_authid AS g ON g.oid = m.roleid WHERE $ours GROUP BY r.rolname, g.rolname"
} >notes.sql
unset database
sql -f shared.sql >lines.shared
sql -f notes.sql >notes.shared
roles=$(grep -c '^role	' lines.shared)

# --- What has to be done in each database ----------------------------------------------------------------------------
sql -0 <<<"SELECT datname FROM pg_database WHERE datname <> 'template0' AND datallowconn ORDER BY datname COLLATE \"C\"" >databases
mapfile -d '' -t databases <databases
sql -0 <<<"SELECT pg_encoding_to_char(encoding) FROM pg_database WHERE datname <> 'template0' AND datallowconn ORDER BY datname COLLATE \"C\"" >encodings
mapfile -d '' -t encodings <encodings
sql -0 <<<"SELECT $(field datname) FROM pg_database WHERE datname <> 'template0' AND datallowconn ORDER BY datname COLLATE \"C\"" >fields
mapfile -d '' -t fields <fields

# Runs a command on database number $1. No conversion is defined for SQL_ASCII, and none for its bytes.
in_database() {
  local encoding=UTF8
  [ "${encodings[$1]}" != SQL_ASCII ] || encoding=SQL_ASCII
  PGDATABASE="${databases[$1]}" "${@:2}"
}

user_schema="n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
not_of_extension="NOT EXISTS (SELECT FROM pg_depend AS x WHERE x.classid = tableoid_of AND x.objid = oid_of AND x.deptype = 'e')"
outside() { local text="${not_of_extension//tableoid_of/"'pg_catalog.$1'::regclass"}"; printf '%s' "${text//oid_of/$2}"; }
# Tables of an extension hold user data only where the extension says so, and only those of its condition.
tables="FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
  LEFT JOIN pg_depend AS x ON x.classid = 'pg_catalog.pg_class'::regclass AND x.objid = c.oid AND x.objsubid = 0 AND x.deptype = 'e'
  LEFT JOIN pg_extension AS e ON e.oid = x.refobjid
  WHERE $user_schema AND c.relpersistence <> 't' AND (e.oid IS NULL OR c.oid = ANY (e.extconfig))"
relation="$(name_of n.nspname) || '.' || $(name_of c.relname)"

# Small ones together, large ones alone: two sessions at a time take the next lot each.
cat >plan.sql <<SQL
SELECT concat_ws(' ', sum(bytes), CASE WHEN sum(sum(bytes)) OVER () < 33554432 THEN 'both' ELSE 'rows' END, :'number', string_agg(oid::text, ','))
FROM (SELECT oid, bytes, floor(sum(bytes) OVER (ORDER BY bytes DESC, oid) / 33554432) AS lot
      FROM (SELECT c.oid, pg_table_size(c.oid) + 65536 AS bytes $tables AND c.relkind IN ('r', 'm')) AS sized) AS lots
GROUP BY lot;
SELECT concat_ws(' ', 1e15 + count(*), 'schema', :'number') FROM pg_class;
-- With one small lot of tables, one session does both.
SELECT concat_ws(' ', pg_table_size('pg_catalog.pg_largeobject') + 1, 'objects', :'number')
WHERE (SELECT coalesce(sum(pg_table_size(c.oid) + 65536), 0) $tables AND c.relkind IN ('r', 'm')) NOT BETWEEN 1 AND 33554431;
SQL
for number in "${!databases[@]}"; do
  in_database "$number" sql -v number="$number" -f plan.sql
done | sort -rn -k1,1 >plan

# Columns in the order of their names: a restore may change that of tables that inherit. Twice hashed, with two seeds, so
# that sums do not depend on the order of rows and do not meet by chance; OFFSET 0 keeps the row's text from being made twice.
cat >rows.sql <<SQL
SELECT format('SELECT concat_ws(E''\t'', %L, %L, %L, CASE WHEN %L THEN format(''%%s %%s %%s'', count(*), coalesce(sum(hashtextextended(r, 0)), 0), coalesce(sum(hashtextextended(r, 7046029254386353131)), 0)) ELSE ''not populated'' END) FROM (SELECT ROW(%s)::text COLLATE "C" AS r FROM ONLY %I.%I %s OFFSET 0) AS pgleap',
  CASE c.relkind WHEN 'm' THEN 'note' ELSE 'rows' END, $(field "current_database()"), $(field "$relation"), c.relispopulated,
  CASE WHEN c.relispopulated THEN (SELECT string_agg(format('%I', a.attname), ', ' ORDER BY a.attname COLLATE "C") FROM pg_attribute AS a
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) END,
  n.nspname, c.relname,
  CASE WHEN c.relispopulated THEN e.extcondition[array_position(e.extconfig, c.oid)] ELSE 'WHERE false' END)
$tables AND c.oid = ANY (string_to_array(:'oids', ',')::oid[])
ORDER BY c.oid \gexec
SQL
# FROM an unpopulated view is refused even with WHERE false.
sed -i "s/AND c.oid = ANY/AND c.relispopulated AND c.oid = ANY/" rows.sql

{
  lines relation "$relation" "format('kind=%s persistence=%s owner=%s method=%s tablespace=%s identity=%s populated=%s acl=%s columns=%s', c.relkind, c.relpersistence, pg_get_userbyid(c.relowner), (SELECT amname FROM pg_am WHERE oid = c.relam), (SELECT spcname FROM pg_tablespace WHERE oid = c.reltablespace), c.relreplident, c.relispopulated, $(acl c.relacl r c.relowner), $(hash "(SELECT string_agg(concat_ws(' ', a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, a.attidentity, a.attgenerated, (SELECT collname FROM pg_collation WHERE oid = a.attcollation)), ',' ORDER BY a.attname COLLATE \"C\") FROM pg_attribute AS a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)"))" \
    <<<"$tables AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')"
  lines function "$(name_of n.nspname) || '.' || $(name_of p.proname) || '(' || replace(pg_get_function_identity_arguments(p.oid), '\"', '') || ')'" \
    "$(hash "concat_ws(E'\\\\n', p.prosrc, p.probin, p.proconfig)")" \
    <<<"FROM pg_proc AS p JOIN pg_namespace AS n ON n.oid = p.pronamespace WHERE $user_schema AND $(outside pg_proc p.oid)"
  # Versions print a view's text differently; what it stands on they do not, but for json, and for quotes around what is a
  # keyword in one of them.
  lines depends "format('%s rule %s', $relation, $(name_of w.rulename))" \
    "$(hash "(SELECT string_agg(DISTINCT concat_ws(' ', i.type, replace(regexp_replace(i.identity, '\\mpg_catalog\\.json\\M', 'json', 'g'), '\"', '')) COLLATE \"C\", ',') FROM pg_depend AS d CROSS JOIN LATERAL pg_identify_object(d.refclassid, d.refobjid, 0) AS i WHERE d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = w.oid AND d.refobjid >= 16384 AND d.refclassid <> 'pg_catalog.pg_constraint'::regclass)")" \
    <<<"FROM pg_rewrite AS w JOIN pg_class AS c ON c.oid = w.ev_class JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE $user_schema AND $(outside pg_class c.oid)"
  lines defaults "format('%s for %s in %s', d.defaclobjtype, pg_get_userbyid(d.defaclrole), coalesce((SELECT nspname FROM pg_namespace WHERE oid = d.defaclnamespace), 'all schemas'))" "$(acl d.defaclacl r d.defaclrole)" \
    <<<"FROM pg_default_acl AS d"
  lines policy "format('%s on %s', $(name_of o.polname), $relation)" \
    "coalesce((SELECT string_agg(pg_get_userbyid(role)::text, ', ' ORDER BY pg_get_userbyid(role)::text COLLATE \"C\") FROM unnest(o.polroles) AS role WHERE role <> 0), 'PUBLIC')" \
    <<<"FROM pg_policy AS o JOIN pg_class AS c ON c.oid = o.polrelid JOIN pg_namespace AS n ON n.oid = c.relnamespace"
  lines extension e.extname "$(name_of n.nspname)" <<<"FROM pg_extension AS e JOIN pg_namespace AS n ON n.oid = e.extnamespace"
  lines note "'extension ' || e.extname" e.extversion <<<"FROM pg_extension AS e"
  cat <<SQL
SELECT format('SELECT concat_ws(E''\t'', ''sequence'', %L, %L, concat_ws('' '', last_value, is_called)) FROM %I.%I',
  $(field "current_database()"), $(field "$relation"), n.nspname, c.relname)
$tables AND c.relkind = 'S' \gexec
SQL
  # A page is as long as its bytes up to its last one that was written; a hole counts as zeros, as a restore writes it.
  lines largeobject "m.oid::text" "format('owner=%s acl=%s comment=%s bytes=%s hash=%s %s', pg_get_userbyid(m.lomowner), $(acl m.lomacl L m.lomowner), (SELECT $(hash c.description) FROM pg_description AS c WHERE c.classoid = 'pg_catalog.pg_largeobject'::regclass AND c.objoid = m.oid), coalesce(p.bytes, 0), coalesce(p.a, 0), coalesce(p.b, 0))" <<SQL
FROM pg_largeobject_metadata AS m LEFT JOIN (
  SELECT loid, max(pageno::bigint * size + length(data)) AS bytes,
    sum(hashtextextended(pageno || ':' || encode(page, 'hex'), 0)) FILTER (WHERE page <> zeros) AS a,
    sum(hashtextextended(pageno || ':' || encode(page, 'hex'), 7046029254386353131)) FILTER (WHERE page <> zeros) AS b
  FROM (SELECT l.*, data || substr(zeros, length(data) + 1) AS page, zeros, size
        FROM pg_largeobject AS l, (SELECT size, decode(repeat('00', size), 'hex') AS zeros
          FROM (SELECT current_setting('block_size')::int / 4 AS size) AS s) AS z OFFSET 0) AS pages
  GROUP BY loid) AS p ON p.loid = m.oid
SQL
} >objects.sql

# Splits a schema dump at its headers, one file an object, and takes out what only the version of the server decides.
cat >split.awk <<'AWK'
function flush(  i, text) {
  # These two are in lines of kinds relation and defaults.
  if (key == "" || type == "DEFAULT ACL" || (type == "ACL" && name ~ /^TABLE /)) return
  while (count > 0 && line[count] == "") count--
  if (type == "TABLE" || type == "FOREIGN TABLE" || type == "DOMAIN") relax()
  if (type ~ /ACL$/ || (type == "TABLE" && inherits)) order()
  # Written in ICU's standard form since 16, whatever the source called it.
  if (type == "COLLATION") for (i = 1; i <= count; i++) if (line[i] ~ /provider = icu/) sub(/, locale = '([^']|'')*'/, "", line[i])
  # A keyword since 16, and as one it is not quoted where it names the type.
  for (i = 1; i <= count; i++) { gsub(/"json"/, "json", line[i]); line[i] = fields(line[i]) }
  gsub(/"json"/, "json", key)
  # The roles come in the order of their oids, which a restore does not keep; lines of kind policy name them.
  if (type == "POLICY") for (i = 1; i <= count; i++) sub(/ TO ("([^"]|"")*"|PUBLIC)(, ("([^"]|"")*"|PUBLIC))*/, "", line[i])
  if (type == "VIEW" || type == "MATERIALIZED VIEW" || type == "RULE" || type == "POLICY" || atomic) {
    text = ""
    for (i = 1; i <= count; i++) text = text line[i]
    # First the qualifiers: without its parenthesis a function's name would stand next to one.
    gsub(/("[^"]*")+\./, "", text)
    gsub(/[ \t();]/, "", text)
    line[1] = text; count = 1
  }
  total++
  out = folder "/" total
  for (i = 1; i <= count; i++) print line[i] > out
  printf "" > out
  close(out)
  gsub(/\\/, "\\\\", key); gsub(/\t/, "\\t", key)
  print total "\t" key > names
}
# 18.6 quotes the field of EXTRACT; minors before it print it bare, as it was written, and a restore lowers that.
function fields(text,  done, field) {
  while (match(text, /EXTRACT\("?[A-Za-z_]+"? FROM /)) {
    field = tolower(substr(text, RSTART, RLENGTH))
    gsub(/"/, "", field)
    done = done substr(text, 1, RSTART - 1) field
    text = substr(text, RSTART + RLENGTH)
  }
  return done text
}
# NOT NULL is a constraint with a name of its own since 18; its presence is in the lines of kind relation.
function relax(  i, kept) {
  kept = 0
  for (i = 1; i <= count; i++) {
    gsub(/ CONSTRAINT ("[^"]*")+ NOT NULL/, " NOT NULL", line[i])
    gsub(/ NOT NULL( NO INHERIT)?/, "", line[i])
    sub(/,$/, "", line[i])
    if (line[i] ~ /^    ("[^"]*")+$/ || line[i] ~ /^[ ()]*$/) continue
    sub(/ \($/, "", line[i])
    line[++kept] = line[i]
  }
  count = kept
}
# Grants come in the order they were made; each keeps the name of its grantor.
function order(  i, j, kept, text, grantor) {
  kept = 0
  for (i = 1; i <= count; i++) {
    if (line[i] ~ /^SET SESSION AUTHORIZATION /) { grantor = line[i]; continue }
    if (line[i] ~ /^RESET SESSION AUTHORIZATION;/) { grantor = ""; continue }
    text = grantor line[i]
    for (j = kept; j > 0 && line[j] > text; j--) line[j + 1] = line[j]
    line[j + 1] = text
    kept++
  }
  count = kept
}
function reset() { key = ""; count = 0; inherits = 0; atomic = 0 }
BEGIN { reset(); names = folder ".names"; printf "" > names }
/^-- Name: .*; Type: .*; Schema: / && previous == "--" {
  if (count > 0) count--
  flush()
  reset()
  key = substr($0, 10)
  sub(/; Owner: .*$/, "", key)
  type = key
  sub(/^.*; Type: /, "", type); sub(/; Schema: .*$/, "", type)
  name = key
  sub(/; Type: .*$/, "", name)
  schema = key
  sub(/^.*; Schema: /, "", schema)
  key = type " " (schema == "-" ? "" : schema ".") name
  previous = ""; skip = 1
  next
}
/^-- PostgreSQL database dump complete$/ && previous == "--" { if (count > 0) count--; flush(); reset(); next }
# The header's closing line.
skip { skip = 0; if ($0 == "--") next }
# These stand between objects, in whatever order the objects came.
/^SET default_(tablespace|table_access_method) = / || /^\\(un)?restrict / { next }
{
  previous = $0
  if (key == "" || (count == 0 && $0 == "")) next
  if ($0 ~ /^INHERITS \(/) inherits = 1
  if (type ~ /^(FUNCTION|PROCEDURE)$/ && $0 ~ /^ *(BEGIN ATOMIC|RETURN )/) atomic = 1
  line[++count] = $0
}
AWK

schema() {
  local number="$1" folder="objects.$1"
  mkdir "$folder"
  in_database "$number" pg_dump -w -s --quote-all-identifiers --lock-wait-timeout=60000 \
    $([ "${encodings[$number]}" = SQL_ASCII ] || echo --encoding=UTF8) >"$folder.dump"
  tail -n 20 "$folder.dump" | grep -qx -e '-- PostgreSQL database dump complete'
  awk -v folder="$folder" -f split.awk "$folder.dump"
  rm "$folder.dump"
  (cd "$folder" && find . -type f -name '[0-9]*' | sed 's/^..//' | xargs -r sha256sum) >"$folder.hashes"
  # Two objects of one key (a name that looks like a header, sanitised names) are told apart by their hash.
  FIELD="${fields[$number]}" awk -F '\t' 'BEGIN { database = ENVIRON["FIELD"] }
    FNR == NR { split($0, part, / +\*?/); hash[part[2]] = part[1]; next }
    { print "object\t" database "\t" $2 "\t" hash[$1] }' "$folder.hashes" "$folder.names"
  rm -rf "$folder" "$folder.names" "$folder.hashes"
}

total=$(in_lots=0; while read -r _ kind _ oids; do [ -z "$oids" ] || { only="${oids//[!,]/}"; in_lots=$((in_lots + ${#only} + 1)); }; done <plan; echo "$in_lots")
report() { echo "$(cat lines.[0-9]* 2>/dev/null | grep -c -E '^(rows|note)	' || true) $total" >"$PGLEAP_JOB/progress"; }
echo "0 $total" >"$PGLEAP_JOB/progress"

worker() {
  local kind number oids
  while [ ! -e failed ]; do
    # The plan is one open file for both: whoever holds the lock takes its next line.
    exec 9>lock
    flock 9
    IFS=' ' read -r _ kind number oids <&8 || break
    exec 9>&-
    case "$kind" in
      both) in_database "$number" sql -v oids="$oids" -f objects.sql -f rows.sql ;;
      rows) in_database "$number" sql -v oids="$oids" -f rows.sql ;;
      objects) in_database "$number" sql -f objects.sql ;;
      schema) schema "$number" ;;
    esac >>"lines.$1"
    report
  done
}

exec 8<plan
pids=()
for one in $(seq $workers); do
  (trap 'touch failed' ERR; worker "$one") &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || touch failed; done
exec 8<&-
[ ! -e failed ] || exit 1

# --- One file --------------------------------------------------------------------------------------------------------
cat lines.* | grep -v '^note	' | sort >all
cat notes.shared lines.* | grep '^note	' | sort >"$file.notes.tmp"
mv all "$file.tmp"
# These two only: of the rest the server was told not to wait for the disk.
sync "$file.tmp" "$file.notes.tmp" 2>/dev/null || sync
sum=$(sha512sum <"$file.tmp")
mv "$file.notes.tmp" "$file.notes"
mv "$file.tmp" "$file"
echo "$total $total" >"$PGLEAP_JOB/progress"
awk -F '\t' -v sha512="${sum%% *}" -v bytes="$(stat -c %s "$file")" -v roles="$roles" -v databases="${#databases[@]}" -v seconds="$SECONDS" '
  $1 == "rows" { tables++; split($4, part, " "); rows += part[1] }
  $1 == "sequence" { sequences++ }
  $1 == "largeobject" { large++ }
  END { printf "{\"sha512\":\"%s\",\"bytes\":%s,\"databases\":%d,\"tables\":%d,\"rows\":%.0f,\"sequences\":%d,\"largeObjects\":%d,\"roles\":%d,\"seconds\":%d}\n", sha512, bytes, databases, tables, rows, sequences, large, roles, seconds }' "$file"
cd ..
rm -rf work
