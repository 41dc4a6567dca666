/**
 * Streams that can be trusted: everything that goes into a pod or comes out of it, by way of a proxy that cuts, resets, stalls
 * and slows connections. The cluster is the caller's, so that the same holds for any.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { KubeConfig } from '@kubernetes/client-node';
import { ApplicationFailure } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, onTestFinished, test } from 'vitest';
import { copyIn, copyOut } from '../../src/activities/artifacts/copy.ts';
import { artifactPath, openStore, type ArtifactStore } from '../../src/activities/artifacts/store.ts';
import { fail } from '../../src/activities/errors.ts';
import { execInPod, runInPod } from '../../src/activities/kubernetes/exec.ts';
import { awaitJob, clearJob, pollJob, startJob } from '../../src/activities/kubernetes/jobs.ts';
import { dump, fingerprint } from '../../src/activities/postgres/dump.ts';
import { importDump } from '../../src/activities/postgres/import.ts';
import { sqlJson, sqlText } from '../../src/activities/postgres/psql.ts';
import type { Artifact, ServerRef, World } from '../../src/domain/facts.ts';
import { onCluster } from '../support/world.ts';
import { run } from './environment.ts';
import { startTcpProxy, type TcpProxy } from './tcp-proxy.ts';

export interface StreamWorld {
  kubeConfig: KubeConfig;
  world: World;
  /** A server to dump, in its own pod. */
  source: ServerRef;
  sourceIp: string;
  /** Fenced and empty, of a newer version, with the source's password in its environment and room under /pgleap. */
  candidate: ServerRef;
  close(): Promise<void>;
}

const MiB = 1 << 20;

export function streamTests(open: () => Promise<StreamWorld>): void {
  let servers: StreamWorld;
  let folder: string;
  let store: ArtifactStore;
  let answer: string;
  let count = 0;

  beforeAll(async () => {
    servers = await open();
    folder = await mkdtemp(path.join(tmpdir(), 'pgleap-streams-'));
    store = await openStore(path.join(folder, 'store'));
    answer = await sqlText(servers.kubeConfig, servers.candidate, longAnswer);
    await sqlText(servers.kubeConfig, servers.candidate, 'CREATE TABLE public.changed (i int)', { write: true });
    await runInPod(servers.kubeConfig, servers.candidate.pod, [
      'sh',
      '-c',
      'head -c 20000000 /dev/urandom >/pgleap/file; mkdir -p /pgleap/in',
    ]);
  }, 300_000);
  afterAll(async () => {
    await servers.close();
    await rm(folder, { recursive: true, force: true });
  });

  async function proxied(): Promise<TcpProxy> {
    const proxy = await startTcpProxy(servers.kubeConfig);
    onTestFinished(() => proxy.close());
    return proxy;
  }

  const longAnswer = `SELECT string_agg(md5(i::text), ',') FROM generate_series(1, 9000) AS i`;
  /** Of each kind of exec: what it gives when all is well. `check` sees to it that it took effect once at most. */
  const kinds: Record<string, () => { go: (kc: KubeConfig) => Promise<unknown>; right: () => unknown }> = {
    'an answer of SQL': () => ({
      go: (kc) => sqlText(kc, servers.candidate, longAnswer, { timeoutMs: 5000 }),
      right: () => answer,
    }),
    'a change by SQL': () => ({
      go: (kc) => sqlText(kc, servers.candidate, changeSql, { write: true }),
      right: () => '',
    }),
    'bytes in and out': () => {
      const bytes = randomBytes(150_000);
      return {
        go: async (kc) => {
          // As every command with input must: a connection cut on its way in is the input's end, and the answer still comes.
          const script = `file=$(mktemp) && timeout 15 head -c "$1" >"$file" && size=$(stat -c %s "$file") || exit 1
            if [ "$size" = "$1" ]; then timeout 15 cat "$file"; else size=short; fi
            rm -f "$file"
            [ "$size" = "$1" ] || exit 75`;
          const argv = ['sh', '-c', script, 'sh', String(bytes.length)];
          const { code, stdout } = await execInPod(kc, servers.candidate.pod, argv, { stdin: bytes });
          if (code === 75) throw fail('StreamBroken', 'the input did not arrive whole');
          return code === 0 && stdout.equals(bytes);
        },
        right: () => true,
      };
    },
    'a job': () => {
      const name = `job-${(count += 1)}`;
      const script = `echo ${'x'.repeat(60_000)} >/dev/null; echo ran >>/pgleap/runs-${name}`;
      return {
        async go(kc) {
          const { kubeConfig, candidate } = servers;
          try {
            await startJob(kc, candidate.pod, { name, script });
          } finally {
            // Whatever became of that call: the next one starts it, or finds it.
            await startJob(kubeConfig, candidate.pod, { name, script });
            await awaitJob(kubeConfig, candidate.pod, name, () => {});
            expect(await runInPod(kubeConfig, candidate.pod, ['cat', `/pgleap/runs-${name}`])).toBe('ran\n');
          }
          return (await pollJob(kc, candidate.pod, name)).state;
        },
        right: () => 'done',
      };
    },
  };
  // Longer than a frame. Cut in the gap it would be another statement, and a valid one.
  const changeSql = `INSERT INTO public.changed SELECT 1 WHERE true${' '.repeat(100_000)}AND false`;

  /** Right, or a failure that is tried again. Nothing else. */
  async function rightOrBroken(
    kind: { go: (kc: KubeConfig) => Promise<unknown>; right: () => unknown },
    kc: KubeConfig,
  ) {
    try {
      expect(await kind.go(kc)).toEqual(kind.right());
      return 'right';
    } catch (error) {
      if (!(error instanceof ApplicationFailure)) throw error;
      expect(['StreamBroken', 'Unreachable'], error.message).toContain(error.type);
      expect(error.nonRetryable).toBe(false);
      return 'broken';
    }
  }

  /** What runs in the candidate's pod and is neither its server nor this look: the command lines of each exec and job. */
  async function strangers(): Promise<string[]> {
    const script = `
      for one in /proc/[0-9]*; do
        { read -r stat <"$one/stat" && command=$(tr '\\0\\n' '  ' <"$one/cmdline"); } 2>/dev/null || continue
        read -r state parent rest <<<"\${stat##*) }"
        echo "\${one#/proc/} $parent $command"
      done
      echo "$$ 0"`;
    const text = await runInPod(servers.kubeConfig, servers.candidate.pod, ['bash', '-c', script]);
    const lines = text
      .trim()
      .split('\n')
      .map((line) => line.split(' '));
    const own = lines.pop()?.[0];
    const parents = new Map(lines.map(([pid = '', parent = '']) => [pid, parent]));
    // What was started from outside is nobody's child here, and an orphan is the first process's.
    const topOf = (pid: string): string => {
      const parent = parents.get(pid) ?? '0';
      return parent === '0' || parent === '1' ? pid : topOf(parent);
    };
    const groups = new Map<string, string>();
    for (const [pid = '', , ...words] of lines) {
      const command = words.join(' ').trim();
      const top = topOf(pid);
      if (command === '' || /postgres|docker-entrypoint/.test(command) || top === own) continue;
      groups.set(top, `${groups.get(top) ?? ''}${command}\n`);
    }
    return [...groups.values()];
  }

  /** Of them, what no time limit ends. */
  async function unbounded(): Promise<string[]> {
    return (await strangers()).filter((commands) => !/^timeout \d+ /m.test(commands));
  }

  async function nothingLeft(seconds: number): Promise<void> {
    await expect.poll(strangers, { timeout: seconds * 1000, interval: 1000 }).toEqual([]);
    const sessions = `SELECT json_agg(query) FROM pg_stat_activity WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()`;
    await expect
      .poll(() => sqlJson(servers.kubeConfig, servers.candidate, sessions).catch(() => null), { timeout: 10_000 })
      .toBeNull();
    expect(await sqlJson(servers.kubeConfig, servers.candidate, 'SELECT count(*) FROM public.changed')).toBe(0);
  }

  describe.each(Object.keys(kinds))('%s', (name) => {
    const make = kinds[name];
    if (make === undefined) throw new RangeError(name);

    test.each(['end', 'reset'] as const)(
      'is right or broken wherever the connection meets its %s',
      async (how) => {
        const proxy = await proxied();
        const clean = make();
        proxy.fault = { way: 'up', after: Infinity, how };
        expect(await clean.go(proxy.kubeConfig)).toEqual(clean.right());
        const longest = { ...proxy.longest };
        const outcomes = { right: 0, broken: 0 };
        for (const way of ['down', 'up'] as const) {
          const total = longest[way];
          // Everywhere, and densely at the end: close to the exit code.
          const places = [
            ...Array.from({ length: 8 }, (_, i) => Math.floor((total * i) / 8)),
            2000,
            1000,
            600,
            400,
            300,
            200,
            100,
            50,
            1,
          ].map((at, i) => (i < 8 ? at : Math.max(0, total - at)));
          for (const after of places) {
            proxy.fault = { way, after, how };
            outcomes[await rightOrBroken(make(), proxy.kubeConfig)] += 1;
          }
        }
        expect(outcomes.broken).toBeGreaterThan(10);
        proxy.fault = undefined;
        expect(await rightOrBroken(make(), proxy.kubeConfig)).toBe('right');
        await nothingLeft(60);
      },
      240_000,
    );
  });

  // Two and a half minutes of waiting for time limits on this side, which no cluster changes.
  describe.skipIf(onCluster)('a connection that dies without a word', { concurrent: true }, () => {
    test.each([
      ['in the handshake', 'down', 500, 25],
      ['on the way in', 'up', 20_000, 45],
      ['on the way out', 'down', 60_000, 45],
    ] as const)(
      '%s is given up in its time',
      async (_where, way, after, seconds) => {
        const proxy = await proxied();
        proxy.fault = { way, after, how: 'stall' };
        const began = performance.now();
        const kind = (way === 'up' ? kinds['a job'] : kinds['an answer of SQL'])?.();
        if (kind === undefined) throw new RangeError('no such kind');
        const go =
          way === 'up' ? kind.go : (kc: KubeConfig) => sqlText(kc, servers.candidate, longAnswer, { timeoutMs: 1000 });
        expect(await rightOrBroken({ ...kind, go }, proxy.kubeConfig)).toBe('broken');
        expect((performance.now() - began) / 1000).toBeLessThan(seconds);
        expect(proxy.met).toBeGreaterThan(0);
      },
      120_000,
    );

    test('costs a copy a minute, not the copy', async () => {
      const proxy = await proxied();
      proxy.fault = { way: 'down', after: 3 * MiB, how: 'stall', times: 2 };
      const artifact = await copyOf('stalled', proxy.kubeConfig);
      proxy.fault = { way: 'up', after: 3 * MiB, how: 'stall', times: 2 };
      await copyBack(artifact, 'stalled', proxy.kubeConfig);
      expect(proxy.met).toBe(4);
    }, 300_000);
  });

  async function fileFacts(file: string): Promise<{ bytes: number; sha512: string }> {
    const script = 'sha512sum <"$1"; wc -c <"$1"';
    const [sum = '', bytes = ''] = (
      await runInPod(servers.kubeConfig, servers.candidate.pod, ['sh', '-c', script, 'sh', file], {
        timeoutMs: 300_000,
      })
    ).split('\n');
    return { bytes: Number(bytes), sha512: sum.slice(0, 128) };
  }

  async function copyOf(name: string, kc: KubeConfig, file = '/pgleap/file'): Promise<Artifact> {
    const { world, candidate } = servers;
    const facts = await fileFacts(file);
    const artifact = await run(() => copyOut(kc, store, { world, pod: candidate.pod, path: file, ...facts, name }));
    const here = createHash('sha512').update(await readFile(artifactPath(store, world, name)));
    expect(here.digest('hex')).toBe(facts.sha512);
    return artifact;
  }

  async function copyBack(artifact: Artifact, name: string, kc: KubeConfig): Promise<void> {
    const { world, candidate } = servers;
    const there = `/pgleap/in/${name}`;
    await run(() => copyIn(kc, store, { world, artifact, pod: candidate.pod, path: there }));
    expect(await fileFacts(there)).toEqual({ bytes: artifact.bytes, sha512: artifact.sha512 });
    await runInPod(servers.kubeConfig, candidate.pod, ['rm', there]);
  }

  test('a copy interrupted 20 times each way moves less than 1.3 times its bytes', async () => {
    const proxy = await proxied();
    const bytes = 160 * MiB;
    const script = `head -c ${bytes} /dev/urandom >/pgleap/large`;
    await runInPod(servers.kubeConfig, servers.candidate.pod, ['sh', '-c', script], { timeoutMs: 60_000 });
    for (const way of ['down', 'up'] as const) {
      proxy.moved = { up: 0, down: 0 };
      let cuts = 0;
      const cutter = setInterval(() => {
        if (cuts < 20 && proxy.moved[way] > (cuts + 1) * (bytes / 22)) {
          cuts += 1;
          proxy.interrupt();
        }
      }, 2);
      try {
        if (way === 'down') await copyOf('large', proxy.kubeConfig, '/pgleap/large');
        else await copyBack({ name: 'large', ...(await fileFacts('/pgleap/large')) }, 'large', proxy.kubeConfig);
      } finally {
        clearInterval(cutter);
      }
      expect(cuts, way).toBe(20);
      expect((proxy.moved.up + proxy.moved.down) / bytes, way).toBeLessThan(1.3);
    }
    await runInPod(servers.kubeConfig, servers.candidate.pod, ['rm', '/pgleap/large']);
    await expect.poll(unbounded, { timeout: 20_000, interval: 1000 }).toEqual([]);
  }, 300_000);

  // There a real one is restarted under a copy.
  test.skipIf(onCluster)(
    'a copy waits for an API server that is away for ten seconds',
    async () => {
      const proxy = await proxied();
      const away = async (from: () => boolean) => {
        await expect.poll(from, { timeout: 60_000, interval: 5 }).toBe(true);
        await proxy.down();
        await sleep(10_000);
        await proxy.up();
      };
      const [artifact] = await Promise.all([copyOf('away', proxy.kubeConfig), away(() => proxy.moved.down > 5 * MiB)]);
      proxy.moved.up = 0;
      await Promise.all([copyBack(artifact, 'away', proxy.kubeConfig), away(() => proxy.moved.up > 5 * MiB)]);
    },
    180_000,
  );

  test('a slow connection is slow, and not broken', async () => {
    const proxy = await proxied();
    proxy.fault = { how: 'drip', bytesPerSecond: 40_000 };
    expect(await sqlText(proxy.kubeConfig, servers.candidate, longAnswer)).toBe(answer);
  });

  test('dump, fingerprint and import survive connections that end every so often', async () => {
    const proxy = await proxied();
    const { world, source, sourceIp, candidate } = servers;
    const from: ServerRef = { ...source, pod: candidate.pod, host: sourceIp };
    await sqlText(servers.kubeConfig, candidate, 'DROP TABLE public.changed', { write: true });
    const breaking = setInterval(() => proxy.interrupt(), 700);
    const runs = async <T>(body: () => Promise<T>): Promise<T> => {
      // As Temporal does: what may be tried again is.
      for (let attempt = 1; ; attempt += 1) {
        try {
          return await run(body);
        } catch (error) {
          if (!(error instanceof ApplicationFailure) || error.nonRetryable === true || attempt === 8) throw error;
        }
      }
    };
    try {
      const kc = proxy.kubeConfig;
      const dumped = await runs(() => dump(kc, { world, from, compression: 'gzip', estimateBytes: 0, name: 'broken' }));
      const before = await runs(() => fingerprint(kc, from, 'broken-source'));
      const { path: file, compression, sha512 } = dumped;
      const imported = await runs(() =>
        importDump(kc, { world, server: candidate, path: file, compression, sha512, name: 'broken' }),
      );
      expect(imported).toMatchObject({ unexpectedCount: 0 });
      expect(imported.expected).toHaveLength(1);
      const after = await runs(() => fingerprint(kc, candidate, 'broken-candidate'));
      expect(after.sha512).toBe(before.sha512);
    } finally {
      clearInterval(breaking);
    }
    await clearJob(servers.kubeConfig, candidate.pod, 'dump-broken');
    await expect.poll(unbounded, { timeout: 20_000, interval: 1000 }).toEqual([]);
  }, 240_000);
}
