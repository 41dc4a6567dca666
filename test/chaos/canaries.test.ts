/** Secrets planted everywhere at once: none comes out, whether all goes well or each kind of fault happens on the way. */
import { createServer } from 'node:http';
import { randomBytes } from 'node:crypto';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { KubeConfig } from '@kubernetes/client-node';
import { expect, test, type TestContext } from 'vitest';
import { sendMessage, upgradeStatus } from '../../src/client/upgrades.ts';
import { UserError } from '../../src/domain/exit-codes.ts';
import type { GateName } from '../../src/domain/phases.ts';
import { openGate, type UpgradeStatus } from '../../src/domain/state.ts';
import { kubeSecrets } from '../../src/worker/secrets.ts';
import { podOf } from '../../src/sandbox/world/access.ts';
import { answer, raiseStage, start, type Stage } from '../e2e/stage.ts';
import {
  filesOf,
  inObjects,
  plant,
  secretsOf,
  seek,
  tempOf,
  textsIn,
  watchProcesses,
  without,
  type Canaries,
  type Leak,
} from './canaries.ts';
import { faults, startProxy, type Fault, type Proxy } from './faults.ts';
import { randomOf, sampled } from './seed.ts';
import { tell } from './table.ts';

const title = 'canaries';
/** So often a fault happens in one upgrade. Those that are waited out take their time. */
const hits = (fault: Fault) => (fault === 'timeout' ? 4 : 12);

for (const fault of sampled(title, ['none', ...faults] as const)) {
  test.concurrent(`no secret comes out: ${fault}`, { timeout: 900_000 }, async (context) => {
    const began = performance.now();
    tell(context, title, { fault, outcome: '' });
    const { onTestFinished } = context;
    const on = await raiseStage(16, 1, { onTestFinished });
    const canaries: Canaries = new Map();
    const canary = (where: string) => {
      const secret = `canary${randomBytes(12).toString('hex')}`;
      canaries.set(where, secret);
      return secret;
    };
    for (const [where, secret] of await secretsOf(on.access)) canaries.set(where, secret);
    await plant(on.access, canary);
    canaries.set('Linode’s token', on.sandbox.linode.token);
    canaries.set('Cloudflare’s token', on.sandbox.cloudflare.token);
    kubeSecrets(on.access.kubeConfig).forEach((secret, n) => canaries.set(`kubeconfig ${n}`, secret));
    expect(canaries.size).toBeGreaterThan(20);

    const way = await betweenWorkerAndWorld(on, canary('the webhook’s URL'), onTestFinished);
    // The backup job of the example shows its own password to everybody.
    const processes = watchProcesses(without(canaries, /blackbox/));
    onTestFinished(async () => void (await processes.stop()));
    await on.startWorker(way.env);
    const workflowId = await start(on);
    await answer(on, workflowId, 'begin');
    const sower = fault === 'none' ? undefined : way.sow(fault, hits(fault));
    const leaks: Leak[] = [];
    const looked = new Set<string>();
    const ended = await play(on, workflowId, async (gate) => {
      if (gate === 'replace') sower?.stop();
      else if (gate !== 'reopen') return;
      looked.add(gate);
      for (const pod of await upgradePods(on))
        leaks.push(...seek(canaries, `/tmp of ${pod.name}`, await tempOf(on.access, pod)));
    });
    expect([...looked]).toContain('replace');
    if (ended.result?.ok) expect([...looked]).toContain('reopen');

    leaks.push(
      ...(await processes.stop()),
      ...(await inObjects(on.access, canaries)),
      ...(await inTemporal(on, canaries)),
      ...(await inFiles(on, ended, way.temp, canaries)),
      ...(await inCommands(on, workflowId, canaries)),
      ...seek(canaries, 'what workers said', on.said()),
      ...seek(without(canaries, /webhook/), 'what the chat room was told', way.told()),
    );
    expect(leaks).toEqual([]);
    expect(way.told()).toContain(ended.upgradeId);
    const happened = sower?.count() ?? 0;
    if (fault === 'none') expect(ended.result?.ok).toBe(true);
    else expect(happened).toBeGreaterThan(fault === 'timeout' ? 0 : 2);
    const seconds = Math.round((performance.now() - began) / 1000);
    tell(context, title, {
      fault,
      happened,
      planted: canaries.size,
      outcome: ended.result?.outcome ?? ended.ending?.how ?? '',
      seconds,
    });
  });
}

/** Proxies before everything the worker talks to, a chat room, and a folder for its temporary files. */
async function betweenWorkerAndWorld(on: Stage, room: string, onTestFinished: TestContext['onTestFinished']) {
  const { sandbox } = on;
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-canaries-'));
  onTestFinished(() => rm(folder, { recursive: true, force: true }));
  const temp = join(folder, 'tmp');
  await mkdir(temp);
  const any = () => '*';
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(sandbox.kubeconfig);
  const cluster = await startProxy(kubeConfig.getCurrentCluster()?.server ?? '', any, (code, echo) => ({
    kind: 'Status',
    status: 'Failure',
    code,
    reason: 'Made',
    message: `no. You sent ${echo}`,
  }));
  const linode = await startProxy(new URL(sandbox.linode.url).origin, any, (_, echo) => ({
    errors: [{ reason: `no. You sent ${echo}` }],
  }));
  const cloudflare = await startProxy(new URL(sandbox.cloudflare.url).origin, any, (_, echo) => ({
    result: null,
    success: false,
    errors: [{ code: 1, message: `no. You sent ${echo}` }],
    messages: [],
  }));
  const heard: string[] = [];
  const chat = createServer((request, response) => {
    request.on('data', (chunk: Buffer) => heard.push(chunk.toString())).on('end', () => response.end('ok'));
  });
  await new Promise<void>((resolve) => {
    chat.listen(0, '127.0.0.1', resolve);
  });
  const port = Object(chat.address()).port;
  const webhook = await startProxy(`http://127.0.0.1:${port}`, any, (_, echo) => ({ error: `no. You sent ${echo}` }));
  const proxies = [cluster, linode, cloudflare, webhook];
  onTestFinished(async () => {
    for (const proxy of proxies) await proxy.close();
    chat.close();
  });
  kubeConfig.clusters = kubeConfig.clusters.map((one) => ({ ...one, server: cluster.url, skipTLSVerify: true }));
  const kubeconfig = join(folder, 'kubeconfig');
  await writeFile(kubeconfig, kubeConfig.exportConfig(), { mode: 0o600 });
  const behind = (proxy: Proxy, url: string) => `${proxy.url}${new URL(url).pathname}`;
  return {
    temp,
    env: {
      KUBECONFIG: kubeconfig,
      LINODE_API_URL: behind(linode, sandbox.linode.url),
      CLOUDFLARE_API_URL: behind(cloudflare, sandbox.cloudflare.url),
      PGLEAP_NOTIFY_URL: `${webhook.url}/hook/${room}?token=${room}`,
      TMPDIR: temp,
    },
    told: () => heard.join('\n'),
    sow: (fault: Fault, most: number) => sow(proxies, fault, most),
  };
}

/** So long a fault waits for its request: some are made once in an upgrade. */
const patienceMs = 3000;

/** Lets requests meet the fault now and then, at each server that is asked just then, and changes as often as reads. */
function sow(proxies: Proxy[], fault: Fault, most: number): { stop(): void; count(): number } {
  const random = randomOf(`canaries ${fault}`);
  const pick = <T>(from: readonly T[]): T | undefined => from[Math.floor(random() * from.length)];
  const waiting = new Map<Proxy, number>();
  const heard = new Map<Proxy, number>();
  let count = 0;
  const timer = setInterval(() => {
    for (const [proxy, since] of waiting) {
      if (proxy.happened()) count += 1;
      else if (performance.now() - since < patienceMs) continue;
      waiting.delete(proxy);
    }
    for (const proxy of proxies) {
      const asked = proxy.seen.length;
      if (waiting.has(proxy) || asked === heard.get(proxy) || count + waiting.size >= most) continue;
      heard.set(proxy, asked);
      const call = pick([...new Set(proxy.seen)]);
      if (call === undefined) continue;
      // The first change is told from those after it, and does not come again.
      proxy.next(/^GET|again$/.test(call) ? call : `${call}, again`, fault);
      waiting.set(proxy, performance.now());
    }
  }, 700);
  return {
    stop() {
      clearInterval(timer);
      for (const proxy of proxies) proxy.forget();
    },
    count: () => count,
  };
}

/** Says yes to everything, and tries again what failed, until the upgrade has ended. */
async function play(on: Stage, workflowId: string, atGate: (gate: GateName) => Promise<void>): Promise<UpgradeStatus> {
  let parks = 0;
  const answered = new Set<string>();
  for (;;) {
    const status = await calmly(() => upgradeStatus(on.session, workflowId));
    if (status?.stage === 'ended') return status;
    const gate = status === undefined ? null : openGate(status);
    if (status?.park) {
      const { id, options } = status.park;
      if (!answered.has(id)) parks += 1;
      answered.add(id);
      const action = parks > 12 && options.includes('rollback') ? 'rollback' : 'retry';
      await calmly(() => sendMessage(on.session, workflowId, 'resolve', { park: id, action, by: 'canaries' }));
    } else if (gate?.evidence) {
      await atGate(gate.name);
      const message = { gate: gate.name, by: 'canaries', evidence: gate.evidence.hash };
      await calmly(() => sendMessage(on.session, workflowId, 'approve', message));
    }
    await sleep(300);
  }
}

/** Somebody who asks too early or too late is refused, and asks again. */
async function calmly<T>(request: () => Promise<T>): Promise<T | undefined> {
  try {
    return await request();
  } catch (error) {
    if (error instanceof UserError) return undefined;
    throw error;
  }
}

async function upgradePods(on: Stage) {
  const source = await podOf(on.access, 'databases', 'postgres').catch(() => undefined);
  const { items } = await on.access.core.listNamespacedPod({
    namespace: 'databases',
    labelSelector: 'pgleap.dev/upgrade',
  });
  const candidates = items.map(({ metadata, spec }) => ({
    namespace: 'databases',
    name: metadata?.name ?? '',
    uid: metadata?.uid ?? '',
    container: spec?.containers[0]?.name ?? '',
  }));
  expect(candidates.length).toBeGreaterThan(0);
  return source === undefined ? candidates : [source, ...candidates];
}

/** Histories, descriptions, memos and the answers to queries, of everything in the namespace. */
async function inTemporal({ session }: Stage, canaries: Canaries): Promise<Leak[]> {
  const leaks: Leak[] = [];
  for await (const { workflowId, runId } of session.client.workflow.list()) {
    const handle = session.client.workflow.getHandle(workflowId, runId);
    const history = textsIn(await handle.fetchHistory());
    expect(history.length).toBeGreaterThan(1000);
    leaks.push(
      ...seek(canaries, `history of ${workflowId}`, history),
      ...seek(canaries, `description of ${workflowId}`, textsIn((await handle.describe()).raw)),
      ...seek(canaries, `details of ${workflowId}`, JSON.stringify(await handle.query('__temporal_workflow_metadata'))),
    );
  }
  return leaks;
}

/** Dumps hold the data; all else may not. Nobody else may read any of it. */
async function inFiles(on: Stage, status: UpgradeStatus, temp: string, canaries: Canaries): Promise<Leak[]> {
  const artifacts = await filesOf(join(on.artifacts, status.upgradeId));
  expect(artifacts.length).toBeGreaterThan(3);
  expect(artifacts.filter(({ mode }) => mode !== 0o600).map(({ file }) => file)).toEqual([]);
  const files = [...artifacts.filter(({ file }) => !/\.dump(\.|\/|$)/.test(file)), ...(await filesOf(temp))];
  return files.flatMap(({ file, text }) => seek(canaries, file, text));
}

/** What the commands of the operator print. */
async function inCommands(on: Stage, workflowId: string, canaries: Canaries): Promise<Leak[]> {
  const leaks: Leak[] = [];
  for (const command of [
    ['status', workflowId],
    ['status', workflowId, '--json'],
    ['report', workflowId],
    ['report', workflowId, '--json'],
    ['doctor'],
  ]) {
    const { stdout, stderr } = await on.pgleap(...command).done;
    expect(stdout).not.toBe('');
    leaks.push(...seek(canaries, `pgleap ${command.join(' ')}`, stdout + stderr));
  }
  return leaks;
}
