# Reads or replaces a file of the data directory. Arguments: read, replace or restore; file; upgrade id; bytes on stdin.
what="$1" file="$2" upgrade="$3" bytes="$4"
case "$what" in
  read)
    # While the fence is up, the original lies beside it.
    [ ! -f "$file.pgleap-$upgrade" ] || file="$file.pgleap-$upgrade"
    timeout 40 cat "$file"
    ;;
  replace)
    [ -f "$file.pgleap-initdb" ] || cp -p "$file" "$file.pgleap-initdb"
    input "$bytes" >"$file.pgleap-new"
    chown "$(stat -c %u:%g "$file")" "$file.pgleap-new"
    chmod "$(stat -c %a "$file")" "$file.pgleap-new"
    mv -f "$file.pgleap-new" "$file"
    sync "$file" 2>/dev/null || sync
    ;;
  restore) mv -f "$file.pgleap-initdb" "$file" ;;
  keep) rm -f "$file.pgleap-initdb" ;;
esac
