import { execFileSync, spawn, spawnSync, type ChildProcess } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdir, rmdir } from 'node:fs/promises';
import path from 'node:path';
import { AppsV1Api, CoreV1Api, KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';

/*
 * `cluster:up` and `cluster:down` themselves, by the commands, on a second cluster beside the one that the other tests use.
 */

const own = process.env['PGLEAP_TEST_KUBECONFIG'] === undefined;
const name = 'pgleap-second';
const env = { ...process.env, PGLEAP_CLUSTER_NAME: name };
const program = path.join(import.meta.dirname, 'cluster.ts');
const state = path.join('/var/lib', name);
const system = `/sys/fs/cgroup/${existsSync('/sys/fs/cgroup/cgroup.controllers') ? '' : 'pids/'}${name}/system`;

const Up = z.object({ kubeconfig: z.string(), seconds: z.number(), memoryBytes: z.number() });

/** What the machine has that a cluster could leave behind. Other clusters and other work come and go meanwhile. */
function snapshot(): Record<string, string[]> {
  const notOthers = (line: string) => !/pgleap-(?!second)/.test(line);
  const lines = (command: string, ...args: string[]) =>
    execFileSync(command, args, { encoding: 'utf8' }).split('\n').filter(notOthers).sort();
  const list = (folder: string) => (existsSync(folder) ? readdirSync(folder).filter(notOthers).sort() : ['(none)']);
  const sysctls = ['vm/overcommit_memory', 'vm/panic_on_oom', 'kernel/panic', 'kernel/panic_on_oops'];
  return {
    mounts: readFileSync('/proc/self/mounts', 'utf8').split('\n').sort(),
    links: list('/sys/class/net'),
    routes: lines('ip', '-4', 'route', 'show', 'table', 'all'),
    namespaces: list('/run/netns'),
    rules: lines('iptables-save').filter((line) => !line.startsWith('#')),
    cgroups: lines('find', '/sys/fs/cgroup', '-type', 'd').filter((line) => /pgleap|kube|pod|containerd/.test(line)),
    sysctls: sysctls.map((key) => `${key} ${readFileSync(`/proc/sys/${key}`, 'utf8').trim()}`),
    folders: ['/etc', '/opt', '/run', '/var/lib', '/var/log', '/usr/libexec'].flatMap((folder) =>
      list(folder).map((entry) => path.join(folder, entry)),
    ),
    processes: readdirSync('/proc').filter((pid) => {
      try {
        return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/cgroup`, 'utf8').includes(`/${name}/`);
      } catch {
        return false;
      }
    }),
  };
}

function cluster(command: string, ...args: string[]) {
  return spawnSync(process.execPath, [program, command, ...args], { env, encoding: 'utf8' });
}

/** Runs `up` where shell commands have changed the mounts, for that run only. */
function upWhere(prepare: string) {
  const shell = `set -e\n${prepare}\nexec "$0" "$@"`;
  const args = ['--mount', '--propagation', 'private', 'sh', '-c', shell, process.execPath, program, 'up'];
  return spawnSync('unshare', args, { env, encoding: 'utf8' });
}

const pidsOf = (component: string) =>
  readFileSync(path.join(system, component, 'cgroup.procs'), 'utf8')
    .trim()
    .split('\n');
const allPids = () =>
  Object.fromEntries(
    readdirSync(system, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .map((entry) => [entry.name, pidsOf(entry.name)]),
  );
const kill = (component: string) => pidsOf(component).forEach((pid) => process.kill(Number(pid), 'SIGKILL'));

function clients() {
  const config = new KubeConfig();
  config.loadFromFile(path.join(state, 'admin.kubeconfig'));
  return { core: config.makeApiClient(CoreV1Api), apps: config.makeApiClient(AppsV1Api) };
}

describe.runIf(own)('the cluster’s own life', { timeout: 600_000 }, () => {
  let before: Record<string, string[]> = {};

  beforeAll(() => {
    cluster('down');
    before = snapshot();
  }, 120_000);
  afterAll(() => cluster('down'), 120_000);

  test('up from nothing gives a cluster in which workloads run', async () => {
    const up = cluster('up', '--json');
    expect(up.stderr).toMatch(/started kubelet/);
    expect(up.status).toBe(0);
    const facts = Up.parse(JSON.parse(up.stdout));
    expect(facts.kubeconfig).toBe(path.join(state, 'admin.kubeconfig'));
    expect(facts.memoryBytes).toBeGreaterThan(100 * 2 ** 20);

    const template = {
      metadata: { labels: { app: 'sleeper' } },
      spec: { containers: [{ name: 'main', image: 'postgres:18', command: ['sleep', 'infinity'] }] },
    };
    const spec = { replicas: 1, selector: { matchLabels: { app: 'sleeper' } }, template };
    await clients().apps.createNamespacedDeployment({
      namespace: 'default',
      body: { metadata: { name: 'sleeper' }, spec },
    });
    await expect.poll(sleeper, { timeout: 60_000 }).toMatchObject({ ready: true });
  });

  async function sleeper() {
    const pods = await clients().core.listNamespacedPod({ namespace: 'default', labelSelector: 'app=sleeper' });
    const [status] = pods.items[0]?.status?.containerStatuses ?? [];
    return { pods: pods.items.length, ready: status?.ready, container: status?.containerID };
  }

  test('up again changes nothing and takes seconds', async () => {
    const pids = allPids();
    const pod = await sleeper();
    const again = Up.parse(JSON.parse(cluster('up', '--json').stdout));
    expect(allPids()).toEqual(pids);
    expect(await sleeper()).toEqual(pod);
    expect(again.seconds).toBeLessThan(30);
  });

  test('up starts what was killed, and leaves the pods alone', async () => {
    const pod = await sleeper();
    const pids = allPids();
    for (const component of ['kube-apiserver', 'kubelet', 'kube-proxy']) kill(component);
    expect(cluster('up').status).toBe(0);
    expect(Object.keys(allPids())).toEqual(Object.keys(pids));
    expect(allPids()).toMatchObject({ etcd: pids['etcd'], containerd: pids['containerd'] });
    await expect.poll(sleeper).toEqual(pod);
  });

  test('up makes everything anew around the data when the namespaces are gone', async () => {
    const pod = await sleeper();
    kill('namespaces');
    expect(cluster('up').status).toBe(0);
    // Its old status stays until the kubelet has looked.
    await expect
      .poll(async () => (await sleeper()).container !== pod.container && sleeper(), { timeout: 120_000 })
      .toMatchObject({ pods: 1, ready: true });
  });

  test('down leaves nothing behind, and down again is no mistake', () => {
    expect(cluster('down').status).toBe(0);
    expect(snapshot()).toEqual(before);
    expect(cluster('down').status).toBe(0);
  });

  test('Ctrl-C while it is being made leaves nothing behind', async () => {
    const up = spawn(process.execPath, [program, 'up'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    await untilSays(up, 'started kube-apiserver');
    expect(existsSync(state)).toBe(true);
    up.kill('SIGINT');
    const code = await new Promise((resolve) => up.once('close', resolve));
    expect(code).toBe(1);
    expect(snapshot()).toEqual(before);
  });

  test('killed while it is being made: the next down removes it', async () => {
    const up = spawn(process.execPath, [program, 'up'], { env, stdio: ['ignore', 'pipe', 'pipe'] });
    await untilSays(up, 'started etcd');
    up.kill('SIGKILL');
    await new Promise((resolve) => up.once('close', resolve));
    expect(snapshot()).not.toEqual(before);
    expect(cluster('down').status).toBe(0);
    expect(snapshot()).toEqual(before);
  });

  /** With exit code 2 the machine is to blame, with 1 what happened on it. */
  function expectRefusal(code: 1 | 2, { status, stdout, stderr }: ReturnType<typeof cluster>, ...reasons: RegExp[]) {
    for (const reason of reasons) expect(stderr).toMatch(reason);
    expect(stderr).not.toMatch(/^ +at /m);
    expect({ status, stdout }).toEqual({ status: code, stdout: '' });
    expect(snapshot()).toEqual(before);
  }

  test('refuses whoever is not root', () => {
    const args = ['--user', process.execPath, program, 'up'];
    expectRefusal(2, spawnSync('unshare', args, { env, encoding: 'utf8' }), /must run as root/);
  });

  test('refuses a machine without cgroups', () => {
    expectRefusal(2, upWhere('mount -t tmpfs tmpfs /sys/fs/cgroup'), /No cgroups are mounted/);
  });

  test('refuses a disk without room', async () => {
    await mkdir(state);
    try {
      const refused = upWhere(`mount -t tmpfs -o size=64m tmpfs ${state}`);
      await rmdir(state);
      expectRefusal(2, refused, /Too little room for \/var\/lib\/pgleap-second: 0\.1 GiB free, 4\.0 GiB needed/);
    } finally {
      if (existsSync(state)) await rmdir(state);
    }
  });

  test('refuses a network link of its name that is not its own, and down does not touch it', () => {
    execFileSync('ip', ['link', 'add', name, 'type', 'bridge']);
    try {
      for (const command of ['up', 'down']) {
        const refused = cluster(command);
        expect(refused.status).toBe(command === 'up' ? 2 : 1);
        expect(refused.stderr).toMatch(/no record says.*ip link delete pgleap-second/s);
        expect(existsSync(`/sys/class/net/${name}`)).toBe(true);
      }
    } finally {
      execFileSync('ip', ['link', 'delete', name]);
    }
    expect(snapshot()).toEqual(before);
  });

  test('names a package that cannot be had', () => {
    const refused = upWhere(`
      mount -t tmpfs tmpfs /mnt
      sed '/^Package: mmdebstrap$/,/^$/d' /var/lib/dpkg/status >/mnt/status
      mount --bind /mnt/status /var/lib/dpkg/status
      for folder in /etc/apt/sources.list.d /var/lib/apt/lists /var/cache/apt; do mount -t tmpfs tmpfs $folder; done
      if [ -e /etc/apt/sources.list ]; then mount --bind /dev/null /etc/apt/sources.list; fi`);
    expectRefusal(1, refused, /could not be installed: mmdebstrap\./, /Unable to locate package mmdebstrap/);
  });

  test('a part that does not start is named with its last words, and nothing is left', () => {
    const broken = `printf '#!/bin/sh\\necho no such luck\\nexit 3\\n' >/mnt/etcd
      chmod 755 /mnt/etcd
      mount --bind /mnt/etcd /usr/bin/etcd`;
    expectRefusal(1, upWhere(`mount -t tmpfs tmpfs /mnt\n${broken}`), /etcd (ended|did not start):\nno such luck/);
  });
});

async function untilSays(child: ChildProcess, text: string): Promise<void> {
  let said = '';
  await new Promise<void>((resolve, reject) => {
    child.stderr?.setEncoding('utf8').on('data', (chunk: string) => {
      said += chunk;
      if (said.includes(text)) resolve();
    });
    child.once('close', () => reject(new Error(`ended before it said ${text}: ${said}`)));
  });
}
