import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Writable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, describe, expect, test } from 'vitest';
import { execInPod, runInPod } from '../../src/activities/kubernetes/exec.ts';
import { awaitJob, clearJob, killJob, pollJob, readJob, startJob } from '../../src/activities/kubernetes/jobs.ts';
import { run } from './environment.ts';
import { pod, startExecServer, type Manners } from './exec-server.ts';

const closers: (() => Promise<unknown>)[] = [];

async function server(manners: Manners = {}) {
  const started = await startExecServer(manners);
  closers.push(started.close);
  return started;
}

afterEach(async () => {
  await Promise.all(closers.splice(0).map((close) => close()));
});

describe('execInPod', () => {
  test.each(['v4.channel.k8s.io', 'v5.channel.k8s.io'] as const)(
    'gives exit code, stdout and stderr over %s',
    async (protocol) => {
      const { kc } = await server({ protocol });
      const argv = ['sh', '-c', 'echo "$1"; echo odd >&2; exit 7', 'sh', 'it\'s "quoted" $(no) ünïcode'];
      const result = await execInPod(kc, pod, argv);
      expect({ ...result, stdout: result.stdout.toString() }).toEqual({
        code: 7,
        stdout: 'it\'s "quoted" $(no) ünïcode\n',
        stderr: 'odd\n',
      });
    },
  );

  test('passes bytes in and out unchanged, whichever protocol, when the command bounds its input', async () => {
    const bytes = randomBytes(3_000_000);
    for (const protocol of ['v4.channel.k8s.io', 'v5.channel.k8s.io'] as const) {
      const { kc } = await server({ protocol });
      const { stdout, code } = await execInPod(kc, pod, ['head', '-c', String(bytes.length)], { stdin: bytes });
      expect(code).toBe(0);
      expect(stdout.equals(bytes)).toBe(true);
    }
  });

  test('ends stdin over v5', async () => {
    const { kc } = await server();
    const { stdout } = await execInPod(kc, pod, ['sha256sum'], { stdin: Buffer.from('abc') });
    expect(stdout.toString()).toContain(createHash('sha256').update('abc').digest('hex'));
  });

  test('a command that leaves its input unread still gives its exit code', async () => {
    const { kc } = await server();
    const { code } = await execInPod(kc, pod, ['sh', '-c', 'exit 3'], { stdin: randomBytes(5_000_000) });
    expect(code).toBe(3);
  });

  test('a dropped connection is StreamBroken, never a short success', async () => {
    const { kc } = await server({ dropAfter: 100_000 });
    await expect(execInPod(kc, pod, ['head', '-c', '5000000', '/dev/zero'])).rejects.toMatchObject({
      type: 'StreamBroken',
      nonRetryable: false,
    });
  });

  test('a close without a status is StreamBroken', async () => {
    const { kc } = await server({ noStatus: true });
    await expect(execInPod(kc, pod, ['echo', 'done'])).rejects.toMatchObject({ type: 'StreamBroken' });
  });

  test('CLOSE frames are no end and no crash', async () => {
    const { kc } = await server({ closeFrames: true });
    expect(await runInPod(kc, pod, ['echo', 'hello'])).toBe('hello\n');
  });

  test('a slow writer holds the server back', async () => {
    const { kc, seen } = await server();
    let taken = 0;
    const slow = new Writable({
      highWaterMark: 64 * 1024,
      write(chunk: Buffer, _encoding, done) {
        taken += chunk.length;
        setTimeout(done, 2);
      },
    });
    const running = execInPod(kc, pod, ['head', '-c', '30000000', '/dev/zero'], { stdout: slow });
    await sleep(400);
    // What lies between: kernel buffers of both ends, not the whole of it.
    expect(seen.stdoutSent - taken).toBeLessThan(15_000_000);
    expect((await running).code).toBe(0);
    expect(taken).toBe(30_000_000);
  });

  test('gives up at its time limit, and on a reader that never reads', async () => {
    const { kc } = await server();
    await expect(execInPod(kc, pod, ['sleep', '20'], { timeoutMs: 200 })).rejects.toMatchObject({
      type: 'StreamBroken',
    });
    const deaf = await server({ deaf: true });
    const stdin = randomBytes(40_000_000);
    await expect(execInPod(deaf.kc, pod, ['sleep', '20'], { stdin, timeoutMs: 500 })).rejects.toMatchObject({
      type: 'StreamBroken',
    });
  });

  test.each([0, 1000])('is cancelled with the signal’s own reason after %d ms', async (after) => {
    const { kc } = await server();
    const controller = new AbortController();
    setTimeout(() => controller.abort(new Error('stop it')), after);
    await expect(execInPod(kc, pod, ['sleep', '20'], { signal: controller.signal })).rejects.toThrow('stop it');
  });

  test('more output than asked for is a failure, not a full memory', async () => {
    const { kc } = await server();
    await expect(execInPod(kc, pod, ['cat', '/dev/zero'], { maxOutput: 1_000_000 })).rejects.toMatchObject({
      type: 'CommandFailed',
    });
  });

  test.each([
    [401, 'AccessDenied'],
    [403, 'AccessDenied'],
    [404, 'NotFound'],
    [500, 'Unreachable'],
    [400, 'StreamBroken'],
  ])('a handshake refused with %i is %s, with the server’s words and no token', async (code, type) => {
    const { kc } = await server({ refuse: { code, body: JSON.stringify({ message: 'pods "x" says no' }) } });
    const error: unknown = await execInPod(kc, pod, ['true']).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ type });
    expect(String(error)).toContain('says no');
    expect(JSON.stringify(error) + String(error)).not.toContain('secret-of-the-test');
  });

  test.each([
    ['gone', null],
    ['another one now', { metadata: { uid: 'v' } }],
    [
      'ended: Evicted The node was low',
      { status: { phase: 'Failed', reason: 'Evicted', message: 'The node was low' } },
    ],
  ])('a pod that is %s runs nothing: PodLost', async (says, found) => {
    const { kc, seen } = await server({ pod: found });
    const error: unknown = await execInPod(kc, pod, ['true']).catch((thrown: unknown) => thrown);
    expect(error).toMatchObject({ type: 'PodLost', nonRetryable: true });
    expect(String(error)).toContain(says);
    expect(seen.argv).toEqual([]);
  });

  test('an activity looks at its pod once, and again when an exec is refused', async () => {
    const manners: Manners = {};
    const { kc, seen } = await server(manners);
    await run(async () => {
      for (let i = 0; i < 5; i += 1) await execInPod(kc, pod, ['true']);
      expect(seen.looks).toBe(1);
      manners.refuse = { code: 404, body: '{}' };
      manners.pod = { metadata: { uid: 'v' } };
      await expect(execInPod(kc, pod, ['true'])).rejects.toMatchObject({ type: 'PodLost' });
    });
    expect(seen.looks).toBe(2);
  });

  test('a server that is not there is named with its address', async () => {
    const { kc, close } = await startExecServer({});
    await close();
    await expect(execInPod(kc, pod, ['true'])).rejects.toThrow(/127\.0\.0\.1:\d+.*check the address/);
  });

  test('a command that was killed, as with its pod, is StreamBroken and no exit code', async () => {
    const { kc } = await server();
    for (const script of ['kill -KILL $$', "sh -c 'kill -KILL $$'; exit $?"]) {
      await expect(execInPod(kc, pod, ['sh', '-c', script])).rejects.toMatchObject({
        type: 'StreamBroken',
        nonRetryable: false,
      });
    }
    expect((await execInPod(kc, pod, ['sh', '-c', 'exit 136'])).code).toBe(136);
  });

  test('a command whose container ended just before it is StreamBroken and no missing program', async () => {
    const { kc } = await server();
    await expect(execInPod(kc, pod, ['/proc/4194305/ns/ipc'])).rejects.toMatchObject({
      type: 'StreamBroken',
      message: expect.stringContaining('no such file or directory'),
    });
  });

  test('a program that the container lacks is 127', async () => {
    const { kc } = await server();
    expect((await execInPod(kc, pod, ['no-such-program'])).code).toBe(127);
  });
});

describe('jobs', () => {
  async function jobs(manners: Manners = {}) {
    const folder = await mkdtemp(join(tmpdir(), 'pgleap-jobs-'));
    closers.push(() => rm(folder, { recursive: true, force: true, maxRetries: 5 }));
    return { folder, ...(await server({ ...manners, paths: { '/pgleap': folder } })) };
  }

  test.each(['v4.channel.k8s.io', 'v5.channel.k8s.io'] as const)(
    'run once, detached, and are found again over %s',
    async (protocol) => {
      const { kc, folder } = await jobs({ protocol });
      const job = {
        name: 'dump',
        script:
          'echo "$1 $GREETING"; echo "5 10" >progress; sleep 0.3; echo "PASSWORD \'hush\'" >&2; echo x >>../../runs; exit 4',
        argv: ['a "b" $c'],
        env: { GREETING: "it's me" },
      };
      expect(await startJob(kc, pod, job)).toBe('started');
      expect(await startJob(kc, pod, job)).toBe('found');
      const states: number[] = [];
      const end = await awaitJob(kc, pod, 'dump', (state) => states.push(state.progress?.done ?? -1));
      expect(end).toMatchObject({ state: 'done', code: 4, progress: { done: 5, total: 10 } });
      expect(end.errTail).not.toContain('hush');
      expect(await readFile(join(folder, 'jobs/dump/out'), 'utf8')).toBe('a "b" $c it\'s me\n');
      expect(await readFile(join(folder, 'runs'), 'utf8')).toBe('x\n');
      expect(await startJob(kc, pod, job)).toBe('found');
    },
  );

  test.each([
    ['an empty exit code', 'full', { rc: '' }],
    ['an exit code that is none', 'lost', { rc: 'No space left\n' }],
    ['a negative exit code', 'lost', { rc: '-0\n' }],
    ['empty pid and start', 'lost', { pid: '', start: '' }],
    ['a pid that is none', 'lost', { pid: '../self', start: '' }],
  ])('%s, as a full volume leaves it, is no success and does not run for ever', async (_what, state, files) => {
    const { kc, folder } = await jobs();
    await mkdir(join(folder, 'jobs/dump'), { recursive: true });
    for (const [name, text] of Object.entries(files)) await writeFile(join(folder, 'jobs/dump', name), text);
    expect(await pollJob(kc, pod, 'dump')).toMatchObject({ state, code: null });
  });

  test('that vanish without an exit code are lost, and can be started anew', async () => {
    const { kc, folder } = await jobs();
    const job = { name: 'restore', script: 'sleep 30' };
    await startJob(kc, pod, job);
    expect((await pollJob(kc, pod, 'restore')).state).toBe('running');
    // As when the container restarts: the same pid may be somebody else's by then.
    await writeFile(join(folder, 'jobs/restore/start'), '1');
    await expect(awaitJob(kc, pod, 'restore', () => {})).rejects.toMatchObject({
      type: 'JobLost',
      nonRetryable: false,
    });
    await writeFile(join(folder, 'jobs/restore/start'), await startTime(join(folder, 'jobs/restore/pid')));
    await clearJob(kc, pod, 'restore');
    expect((await pollJob(kc, pod, 'restore')).state).toBe('absent');
    expect(await startJob(kc, pod, job)).toBe('started');
    await clearJob(kc, pod, 'restore');
  });

  test('are killed with all their children, each reaped by its parent', async () => {
    const { kc, folder } = await jobs();
    const script =
      'set -o pipefail; sh -c ">first; sleep 30 || exit 9" | (>second; sleep 31 || exit 9) | cat; echo "$?" >after';
    await startJob(kc, pod, { name: 'import', script });
    for (const began of ['first', 'second'])
      await expect.poll(() => existsSync(join(folder, 'jobs/import', began)), { timeout: 10_000 }).toBe(true);
    await killJob(kc, pod, 'import');
    const state = await pollJob(kc, pod, 'import');
    expect(state.state).toBe('done');
    // The script itself saw its pipeline die, so nobody was orphaned.
    expect(await readFile(join(folder, 'jobs/import/after'), 'utf8')).not.toBe('0\n');
    await killJob(kc, pod, 'import');
    await killJob(kc, pod, 'never-started');
  });

  test('that fork all the time leave no orphan when they are killed', { timeout: 60_000 }, async () => {
    const { kc, folder } = await jobs();
    const script =
      'set -e; while :; do sh -c "sleep 0.002 || exit; read name <../../lives; [ -d /proc/$$ ] || echo orphan >>../../orphans"; done';
    await writeFile(join(folder, 'lives'), 'yes\n');
    for (let time = 0; time < 8; time += 1) {
      await startJob(kc, pod, { name: `dump-${time}`, script });
      await expect.poll(async () => (await pollJob(kc, pod, `dump-${time}`)).state).toBe('running');
      await killJob(kc, pod, `dump-${time}`);
      expect(await pollJob(kc, pod, `dump-${time}`)).toMatchObject({ state: 'done' });
    }
    expect(existsSync(join(folder, 'orphans'))).toBe(false);
  });

  test('that hold TERM back while they fork leave no orphan when they are killed', { timeout: 60_000 }, async () => {
    const { kc, folder } = await jobs();
    // As bash does around each fork of its own, for longer.
    const perl = `use POSIX; open F, ">../../holds"; close F;
      my $term = POSIX::SigSet->new(SIGTERM); sigprocmask(SIG_BLOCK, $term);
      select(undef, undef, undef, 1.5);
      my $parent = $$;
      if (!fork) { select(undef, undef, undef, 0.5); if (!-d "/proc/$parent") { open F, ">../../orphan"; } exit }
      sigprocmask(SIG_UNBLOCK, $term); wait; sleep 30;`;
    await startJob(kc, pod, { name: 'dump', script: 'perl -e "$1"', argv: [perl] });
    await expect.poll(() => existsSync(join(folder, 'holds'))).toBe(true);
    await killJob(kc, pod, 'dump');
    expect(await pollJob(kc, pod, 'dump')).toMatchObject({ state: 'done' });
    await sleep(1000);
    expect(existsSync(join(folder, 'orphan'))).toBe(false);
  });

  test('whose folder goes while they are looked at are absent', async () => {
    const { kc, folder } = await jobs();
    await mkdir(join(folder, 'jobs/dump'), { recursive: true });
    await mkdir(join(folder, 'bin'));
    const stat = `#!/bin/sh\nrm -rf ${folder}/jobs\nPATH=\${PATH#*:} exec stat "$@"\n`;
    await writeFile(join(folder, 'bin/stat'), stat, { mode: 0o755 });
    const path = process.env['PATH'];
    process.env['PATH'] = `${folder}/bin:${path}`;
    try {
      expect(await pollJob(kc, pod, 'dump')).toMatchObject({ state: 'absent', code: null });
    } finally {
      process.env['PATH'] = path;
    }
    await expect(awaitJob(kc, pod, 'dump', () => {})).rejects.toMatchObject({ type: 'JobLost' });
    await expect(readJob(kc, pod, 'dump', 'out')).rejects.toMatchObject({ type: 'JobLost' });
  });

  test('whose folder is gone do not run beside those that are begun under their name', async () => {
    const { kc, folder } = await jobs();
    const job = { name: 'dump', script: 'echo $$ >>../../pids; sleep 30; true' };
    const alive = async () =>
      (await readFile(join(folder, 'pids'), 'utf8'))
        .split('\n')
        .filter((pid) => pid !== '' && existsSync(`/proc/${pid}`));
    const begun = async (count: number) =>
      await expect
        .poll(() => readFile(join(folder, 'pids'), 'utf8').catch(() => ''))
        .toMatch(RegExp(`^(\\d+\n){${count}}$`));
    // One whose name begins with the same letters has nothing to do with it.
    await startJob(kc, pod, { ...job, name: 'dump-2' });
    await startJob(kc, pod, job);
    await begun(2);
    await rm(join(folder, 'jobs'), { recursive: true });
    expect(await startJob(kc, pod, job)).toBe('started');
    await begun(3);
    expect(await alive()).toHaveLength(2);
    await rm(join(folder, 'jobs'), { recursive: true });
    await clearJob(kc, pod, 'dump');
    expect(await alive()).toHaveLength(1);
    await clearJob(kc, pod, 'dump-2');
    expect(await alive()).toEqual([]);
  });

  // Only root may mount what is full as a volume is.
  test.skipIf(process.getuid?.() !== 0)('on a full volume end with its name, its size and what to do', async () => {
    const volumes = [{ name: 'scratch', persistentVolumeClaim: { claimName: 'pgleap-u1-scratch' } }];
    const containers = [{ name: 'postgres', volumeMounts: [{ name: 'scratch', mountPath: '/pgleap' }] }];
    const { kc, folder } = await jobs({ pod: { metadata: { uid: 'u' }, spec: { containers, volumes } } });
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'pgleap-test', folder]);
    try {
      const job = { name: 'dump', script: 'head -c 1000000 /dev/zero >../../fill; exit 3' };
      await startJob(kc, pod, job);
      const words = {
        type: 'NoSpace',
        nonRetryable: true,
        message: expect.stringMatching(
          /claim databases\/pgleap-u1-scratch \(.*k?B\) is full.*kubectl -n databases edit pvc pgleap-u1-scratch/s,
        ),
      };
      await expect(awaitJob(kc, pod, 'dump', () => {})).rejects.toMatchObject(words);
      await expect(startJob(kc, pod, { ...job, name: 'next' })).rejects.toMatchObject(words);
      await rm(join(folder, 'fill'));
      await clearJob(kc, pod, 'dump');
      await startJob(kc, pod, { name: 'dump', script: 'exit 3' });
      expect(await awaitJob(kc, pod, 'dump', () => {})).toMatchObject({ state: 'done', code: 3 });
      await clearJob(kc, pod, 'dump');
    } finally {
      execFileSync('umount', [folder]);
    }
  });

  test('go on when polls break', async () => {
    const manners: Manners = {};
    const { kc } = await jobs(manners);
    await startJob(kc, pod, { name: 'long', script: 'sleep 0.5' });
    manners.noStatus = true;
    const ended = awaitJob(kc, pod, 'long', () => {});
    await sleep(700);
    manners.noStatus = false;
    expect((await ended).code).toBe(0);
  });
});

async function startTime(pidFile: string): Promise<string> {
  const stat = await readFile(`/proc/${(await readFile(pidFile, 'utf8')).trim()}/stat`, 'utf8');
  return stat.slice(stat.lastIndexOf(')') + 2).split(' ')[19] ?? '';
}
