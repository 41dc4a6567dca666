# All that the server has written is on its disk. Argument: name of the mark that it is not.
# A disk's error is told only once: the mark tells whoever asks again, as long as the pod lives.
mark="/dev/shm/$1"
if [ -e "$mark" ]; then
  cat "$mark" >&2
  exit 74
fi
data=$(sql <<<'SHOW data_directory')
case "$(sync --help 2>&1 || true)" in
  *[[:space:]]-f*)
    # sync alone tells of no error. The WAL may lie on a disk of its own.
    if ! says=$(sync -f "$data" "$data/pg_wal" 2>&1); then
      printf '%s\n' "$says" | tee "$mark" >&2
      exit 74
    fi
    ;;
  *) sync ;;
esac
