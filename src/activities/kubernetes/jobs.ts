import type { KubeConfig } from '@kubernetes/client-node';
import type { PodRef } from '../../domain/facts.ts';
import { redact } from '../../domain/redact.ts';
import { bytesText } from '../../domain/text.ts';
import { beat, pause } from '../context.ts';
import { fail, isFailure } from '../errors.ts';
import { createKube, type Kube } from './client.ts';
import { execInPod, runInPod, type ExecOptions } from './exec.ts';

/*
 * Detached commands: a folder `/pgleap/jobs/<name>` in the pod, found again by name after any restart of the worker.
 *
 *   script   what bash runs        out, err   its output
 *   pid      of the job's session  start      that process's start time in clock ticks, against reused pids
 *   rc       its exit code, written last      progress   one line `<done> <total>`, written by the script if it likes
 *
 * A job's orphans become children of the container's first process, which is the postmaster: it takes a child that it does
 * not know and that ended by a signal or with a code above 1 for a crashed backend and restarts all of them. So the
 * session's leader always ends with 0, and killing goes from the leaves up, so that each parent reaps its own children.
 */

const root = '/pgleap/jobs';
const outageMs = 3 * 60_000;

/** Reads pid and session of every process without the command's name, which may hold spaces. */
const readStat = `
stat_of() { sed 's/^\\([0-9]*\\) (.*) /\\1 /' "/proc/$1/stat" 2>/dev/null; }
start_of() { stat_of "$1" | cut -d' ' -f21; }
alive() {
  [ -f "$1/pid" ] || return 1
  at=$(cat "$1/pid")
  # On a full volume both files are there and empty.
  [ -s "$1/start" ] && [ "$(start_of "$at")" = "$(cat "$1/start")" ] && [ "$(stat_of "$at" | cut -d' ' -f2)" != Z ]
}
`;

/** Ends the processes of the job in $1. They are known by what all of them inherited: the folder may be gone under them. */
const endJob = `
members() {
  for found in $(grep -lsF "PGLEAP_JOB=$1" /proc/[0-9]*/environ); do
    if tr '\\0' '\\n' <"$found" 2>/dev/null | grep -qxF "PGLEAP_JOB=$1"; then
      found=\${found#/proc/}
      stat_of "\${found%/environ}"
    fi
  done
}
# What forks between the look and the signal would leave an orphan: so it is stopped first and looked at once more. One that
# holds TERM back, as bash does around its fork, would fork before it ends: its turn comes with the next round.
end_leaf() {
  kill -s STOP "$1" 2>/dev/null || return 0
  for look in 1 2 3 4 5 6 7 8 9 10; do
    [ "$(stat_of "$1" | cut -d' ' -f2)" = T ] || continue
    [ "$2" = TERM ] && grep -q '^SigBlk:.*[4-7c-f]...$' "/proc/$1/status" 2>/dev/null ||
      cat /proc/[0-9]*/stat 2>/dev/null | grep -q ") [A-Za-z] $1 " ||
      kill -s "$2" "$1" 2>/dev/null
    break
  done
  kill -s CONT "$1" 2>/dev/null || true
}
end_job() {
  round=0
  while all=$(members "$1"); [ -n "$all" ]; do
    signal=TERM
    [ $round -gt 50 ] && signal=KILL
    [ $round -gt 150 ] && return 1
    echo "$all" | while read -r pid state parent group session rest; do
      # The leader ends after its children; before it leads a session of its own, nobody may end it.
      [ "$pid" != "$session" ] && echo "$all" | grep -q "^$session " || continue
      echo "$all" | grep -q "^[0-9]* [A-Za-z] $pid " || end_leaf "$pid" $signal
    done
    round=$((round + 1))
    sleep 0.1
  done
}
`;

const startScript = `${readStat}${endJob}
set -eu
umask 077
dir=$1/$2; bytes=$3; shift 3
mkdir -p "$(dirname "$dir")"
new=$(mktemp "$dir.XXXXXX")
# The connection may die without a word to this end: what arrives after the caller gave up must start nothing.
timeout 15 head -c "$bytes" >"$new" || true
if [ "$(wc -c <"$new")" -ne "$bytes" ]; then rm -f "$new"; echo 'the script arrived incomplete' >&2; exit 75; fi
if ! says=$(mkdir "$dir" 2>&1); then
  rm -f "$new"
  [ -d "$dir" ] || { echo "$says" >&2; exit 75; }
  echo found
  exit 0
fi
# Where the volume was emptied, one may run that was begun under this name before.
end_job "$dir" && mv "$new" "$dir/script" || { rm -rf "$dir"; exit 75; }
export PGLEAP_JOB="$dir"
setsid sh -c '
  stat_of() { sed "s/^\\([0-9]*\\) (.*) /\\1 /" "/proc/$1/stat"; }
  stat_of $$ | cut -d" " -f21 >"$PGLEAP_JOB/start"
  echo $$ >"$PGLEAP_JOB/pid.new" && mv "$PGLEAP_JOB/pid.new" "$PGLEAP_JOB/pid" && cd "$PGLEAP_JOB" || exit 0
  rc=0; bash ./script "$@" >out 2>err </dev/null || rc=$?
  echo $rc >rc.new && mv rc.new rc
  exit 0
' job "$@" >/dev/null 2>&1 </dev/null &
echo started
`;

const pollScript = `${readStat}
dir=$1 steps=$2
[ -d "$dir" ] || { echo absent; exit 0; }
while [ "$steps" -gt 0 ] && [ ! -e "$dir/rc" ]; do sleep 0.2; steps=$((steps - 1)); done
state=lost
if [ -s "$dir/rc" ]; then state=done
# Made, but not written to: that is what a full volume leaves.
elif [ -f "$dir/rc" ]; then state=full
elif [ ! -f "$dir/pid" ]; then
  # The volume may be emptied at any moment.
  made=$(stat -c %Y "$dir" 2>/dev/null) || { echo absent; exit 0; }
  # Between making the folder and writing the pid lie milliseconds, or what it takes to end one whose folder went.
  [ $(($(date +%s) - made)) -lt 20 ] && state=running
elif alive "$dir"; then state=running
elif [ -s "$dir/rc" ]; then state=done
elif [ -f "$dir/rc" ] || [ -f "$dir/rc.new" ]; then state=full
fi
echo "$state" "$(cat "$dir/rc" 2>/dev/null || echo -)" "$(stat -c %s "$dir/out" 2>/dev/null || echo 0)" "$(stat -c %s "$dir/err" 2>/dev/null || echo 0)"
tail -n 1 "$dir/progress" 2>/dev/null | head -c 100 || true
echo
tail -c 4000 "$dir/err" 2>/dev/null || true
`;

const killScript = `${readStat}${endJob}
end_job "$1"
`;

export interface JobState {
  /** absent: never started, or cleared. lost: the process is gone and left no exit code. full: for it found no room. */
  state: 'absent' | 'running' | 'done' | 'lost' | 'full';
  /** Exit code; null unless done. */
  code: number | null;
  outBytes: number;
  errBytes: number;
  /** The last line of the job's `progress` file; total null when the script gave `-`. */
  progress: { done: number; total: number | null } | null;
  /** The last 4000 bytes of stderr, redacted. */
  errTail: string;
}

/** Where a job keeps its files; the script's own working directory, `$PGLEAP_JOB`. */
function jobFolder(name: string): string {
  if (!/^[a-z0-9][a-z0-9._-]*$/.test(name)) throw new RangeError(`not a job's name: ${name}`);
  return `${root}/${name}`;
}

/**
 * Starts bash on `script` with `argv`, detached, unless a job of this name is there already. The script is sent on stdin
 * and arguments as argv: no value is ever spliced into a shell's text. `env` must hold no secrets: argv shows them.
 */
export async function startJob(
  kc: KubeConfig,
  pod: PodRef,
  job: { name: string; script: string; argv?: string[]; env?: Record<string, string> },
): Promise<'started' | 'found'> {
  const script = Buffer.from(job.script);
  const env = Object.entries(job.env ?? {}).map(([name, value]) => `${name}=${value}`);
  const { code, stdout, stderr } = await execInPod(
    kc,
    pod,
    ['env', ...env, 'sh', '-c', startScript, 'sh', root, job.name, String(script.length), ...(job.argv ?? [])],
    { stdin: script, timeoutMs: 20_000 },
  );
  // First: what had no room for the script looks like a script that did not arrive.
  if (/No space left/.test(stderr))
    throw await noSpace(kc, pod, `job ${job.name}`, 'There is no room even for its folder.');
  if (code === 75) throw fail('StreamBroken', `${stderr.trim()} in ${pod.namespace}/${pod.name}`);
  const answer = stdout.toString().trim();
  if (code === 0 && (answer === 'started' || answer === 'found')) return answer;
  throw fail('CommandFailed', `could not start job ${job.name} in ${pod.namespace}/${pod.name}: ${stderr.trim()}`);
}

/** One short exec. It waits up to `waitMs` in the pod for the job to end, and answers as soon as it has. */
export async function pollJob(kc: KubeConfig, pod: PodRef, name: string, waitMs = 0): Promise<JobState> {
  const steps = String(Math.ceil(waitMs / 200));
  const text = await runInPod(kc, pod, ['sh', '-c', pollScript, 'sh', jobFolder(name), steps], {
    says: `looking at job ${name}`,
  });
  const [head = '', progress = '', ...err] = text.split('\n');
  const [said, code = '', outBytes, errBytes] = head.trim().split(' ');
  // Number('') is 0: what is no exit code must not pass for success.
  const state = said === 'done' && !/^\d{1,3}$/.test(code) ? 'lost' : said;
  if (state !== 'absent' && state !== 'running' && state !== 'done' && state !== 'lost' && state !== 'full') {
    throw fail('StreamBroken', `job ${name} in ${pod.namespace}/${pod.name} gave an unreadable state`);
  }
  const [done, total] = progress.trim().split(/\s+/).map(Number);
  return {
    state,
    code: state === 'done' ? Number(code) : null,
    outBytes: Number(outBytes ?? 0),
    errBytes: Number(errBytes ?? 0),
    progress:
      progress.trim() !== '' && done !== undefined && Number.isFinite(done)
        ? { done, total: total !== undefined && Number.isFinite(total) ? total : null }
        : null,
    errTail: redact(err.join('\n').trim()),
  };
}

/**
 * Polls until the job has ended, and knows it a moment later: services are down meanwhile. Returns its last state whatever the exit code.
 * `onProgress` runs at each poll (heartbeat there). Throws JobLost when it vanished: the caller may clear it and start anew.
 * Broken polls are forgiven for some minutes, because the job goes on without them.
 */
export async function awaitJob(
  kc: KubeConfig,
  pod: PodRef,
  name: string,
  onProgress: (state: JobState) => void,
): Promise<JobState & { code: number }> {
  let lastAnswer = performance.now();
  for (;;) {
    try {
      const state = await pollJob(kc, pod, name, 2000);
      lastAnswer = performance.now();
      onProgress(state);
      if (state.code !== null) return { ...state, code: state.code };
      if (state.state === 'full') throw await noSpace(kc, pod, `job ${name}`, state.errTail);
      if (state.state !== 'running') {
        const how = state.state === 'absent' ? 'is gone with its folder' : 'ended without an exit code';
        throw fail('JobLost', `job ${name} in ${pod.namespace}/${pod.name} ${how}`);
      }
    } catch (error) {
      if (!isFailure(error, 'StreamBroken', 'Unreachable', 'RateLimited')) throw error;
      if (performance.now() - lastAnswer > outageMs) throw error;
      beat();
      await pause(1000);
    }
    // Only to end when the activity is cancelled.
    await pause(0);
  }
}

/** What an ended job wrote, into `options.stdout` where that is given. Throws JobLost when its folder is gone by then. */
export async function readJob(
  kc: KubeConfig,
  pod: PodRef,
  name: string,
  file: 'out' | 'err',
  options: ExecOptions = {},
): Promise<string> {
  const seconds = (options.timeoutMs ?? 30_000) / 1000 + 10;
  const argv = ['timeout', String(seconds), 'cat', `${jobFolder(name)}/${file}`];
  const { code, stdout, stderr } = await execInPod(kc, pod, argv, options);
  if (code === 0) return stdout.toString('utf8');
  const says = `what job ${name} in ${pod.namespace}/${pod.name} wrote cannot be read: ${stderr.trim()}`;
  throw fail(/No such file/.test(stderr) ? 'JobLost' : 'CommandFailed', says);
}

/** The failure of a full volume: which one, how large, and what to do. `says` are the words of who met it. */
export async function noSpace(kc: KubeConfig, pod: PodRef, what: string, says: string): Promise<Error> {
  const { namespace, name } = pod;
  const [size, claim] = await Promise.all([
    runInPod(kc, pod, ['df', '-P', '-k', '/pgleap'], { says: 'asking how large the volume is' })
      .then((text) => Number(text.trim().split('\n').at(-1)?.split(/\s+/)[1]) * 1024)
      .catch(() => NaN),
    claimOf(createKube(kc), pod).catch(() => undefined),
  ]);
  const which = claim === undefined ? 'the volume at /pgleap' : `the volume of claim ${namespace}/${claim}`;
  const large = Number.isFinite(size) ? ` (${bytesText(size)})` : '';
  const how =
    claim === undefined
      ? ''
      : ` Make it larger (kubectl -n ${namespace} edit pvc ${claim}, where its storage class allows that), or free room in it, and retry.`;
  const words = says === '' ? '' : ` ${redact(says).slice(-1000)}`;
  return fail('NoSpace', `${what} in ${namespace}/${name}: ${which}${large} is full.${words}${how}`);
}

/** The claim behind /pgleap. */
async function claimOf(kube: Kube, { namespace, name, container }: PodRef): Promise<string | undefined> {
  const { spec } = await kube.get('Pod', { namespace, name });
  const mounts = spec?.containers.find((one) => one.name === container)?.volumeMounts;
  const mount = mounts?.find(({ mountPath }) => mountPath === '/pgleap');
  return spec?.volumes?.find((volume) => volume.name === mount?.name)?.persistentVolumeClaim?.claimName;
}

/** Ends a job and all its processes, from the leaves up; resolves when they are gone. No job of this name is no error. */
export async function killJob(kc: KubeConfig, pod: PodRef, name: string): Promise<void> {
  await runInPod(kc, pod, ['sh', '-c', killScript, 'sh', jobFolder(name)], {
    says: `ending job ${name}`,
    timeoutMs: 60_000,
  });
}

/** Kills the job if it runs and removes its folder, so that the name can be started anew. */
export async function clearJob(kc: KubeConfig, pod: PodRef, name: string): Promise<void> {
  await killJob(kc, pod, name);
  await runInPod(kc, pod, ['rm', '-rf', '--', jobFolder(name)], { says: `clearing job ${name}` });
}
