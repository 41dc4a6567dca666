# Puts the source's fence in the place of pg_hba.conf, or the original back; the server is told by the caller.
# Arguments: raise or lift, pg_hba.conf, upgrade id, bytes of the fence's lines on stdin.
what="$1" hba="$2" upgrade="$3" bytes="$4"
original="$hba.pgleap-$upgrade"
# Before anything is looked at: what is found must still be so when it is changed.
lines=$(input "$bytes")

# An attempt that nobody waits for any more may be in the middle of it.
if command -v flock >/dev/null; then
  exec 9<"$(dirname "$hba")"
  timeout 8 flock 9 || { say "another attempt is changing $hba"; exit 75; }
fi

header() { head -n 1 "$hba"; }
digest() { sha256sum <"$1" | cut -d' ' -f1; }
mine="# pgleap fence $upgrade "

first=$(header)
case "$first" in
  "$mine"*) state=mine ;;
  '# pgleap fence '*) say "$hba is the fence of another upgrade: $first"; exit 73 ;;
  *) state=original ;;
esac
# The fence itself says what stood here before.
if [ $state = mine ]; then
  expected="${first##*original sha256=}"
  [ -f "$original" ] || { say "$original is missing"; exit 74; }
  [ "$(digest "$original")" = "$expected" ] || { say "$original is not the file that the fence replaced"; exit 74; }
fi

if [ "$what" = lift ]; then
  if [ $state = mine ]; then
    mv -f "$original" "$hba"
    sync "$(dirname "$hba")" 2>/dev/null || sync
    [ "$(digest "$hba")" = "$expected" ] || exit 74
    echo lifted
  else
    # Left by a fence that was never put up.
    rm -f "$original"
    echo none
  fi
  exit 0
fi

if [ $state = original ]; then
  cp -p "$hba" "$original.new"
  sync "$original.new" 2>/dev/null || sync
  mv -f "$original.new" "$original"
fi
{
  echo "${mine}original sha256=$(digest "$original")"
  printf '%s\n' "$lines"
} >"$hba.pgleap-new"
chown "$(stat -c %u:%g "$original")" "$hba.pgleap-new"
chmod "$(stat -c %a "$original")" "$hba.pgleap-new"
sync "$hba.pgleap-new" 2>/dev/null || sync
mv -f "$hba.pgleap-new" "$hba"
sync "$(dirname "$hba")" 2>/dev/null || sync
echo "raised $(digest "$original")"
