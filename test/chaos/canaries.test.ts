/** Secrets planted everywhere at once: none comes out, whether all goes well or each kind of fault happens on the way. */
import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { sendMessage, upgradeStatus } from '../../src/client/upgrades.ts';
import { UserError } from '../../src/domain/exit-codes.ts';
import { openGate, phaseRow, type UpgradeStatus } from '../../src/domain/state.ts';
import { kubeSecrets } from '../../src/worker/secrets.ts';
import type { PodRef } from '../../src/domain/facts.ts';
import { raiseStage, start, type Stage } from '../e2e/stage.ts';
import {
  filesOf,
  inObjects,
  inPod,
  plant,
  plantFailing,
  secretsOf,
  seek,
  textsIn,
  verifiersOf,
  watchLogs,
  watchProcesses,
  without,
  type Canaries,
  type Leak,
} from './canaries.ts';
import { betweenWorkerAndWorld } from './canaries-way.ts';
import { faults, type Fault } from './faults.ts';
import { sampled } from './seed.ts';
import { tell } from './table.ts';

const title = 'canaries';

/** How an upgrade ends, unless its faults lead it elsewhere. */
type Ending = 'upgraded' | 'rejected at gate reopen' | 'terminated and recovered' | 'given up in the trial';
const others: Partial<Record<Fault, Ending>> = {
  'reset before': 'rejected at gate reopen',
  '403': 'rejected at gate reopen',
  '429': 'rejected at gate reopen',
  garbage: 'rejected at gate reopen',
  '409': 'terminated and recovered',
  '503': 'terminated and recovered',
};
const classes: { fault: Fault | 'none'; ending: Ending }[] = [
  { fault: 'none', ending: 'upgraded' },
  { fault: 'none', ending: 'given up in the trial' },
  ...faults.map((fault) => ({ fault, ending: others[fault] ?? 'upgraded' })),
];

/** So often a fault happens between two gates. Those that are waited out take their time. */
const hits = (fault: Fault) => (fault === 'timeout' ? 1 : 5);

for (const { fault, ending } of sampled(title, classes)) {
  test.concurrent(`no secret comes out: ${fault}, ${ending}`, { timeout: 900_000 }, async (context) => {
    const began = performance.now();
    tell(context, title, { fault, ending, outcome: '' });
    const { onTestFinished } = context;
    const on = await raiseStage(16, 1, { onTestFinished });
    const canaries: Canaries = new Map();
    const canary = (where: string) => {
      // Passwords and tokens of a test's own world: the seed decides nothing by them.
      const secret = `canary${randomBytes(12).toString('hex')}`;
      canaries.set(where, secret);
      return secret;
    };
    for (const [where, secret] of await secretsOf(on.access)) canaries.set(where, secret);
    // First: the other lets the server log what is said to it from then on.
    if (ending === 'given up in the trial') await plantFailing(on.access, canary);
    await plant(on.access, canary);
    const verifiers = await verifiersOf(on.access);
    expect(verifiers.size).toBeGreaterThan(4);
    for (const [where, secret] of verifiers) canaries.set(where, secret);
    canaries.set('Linode’s token', on.sandbox.linode.token);
    canaries.set('Cloudflare’s token', on.sandbox.cloudflare.token);
    kubeSecrets(on.access.kubeConfig).forEach((secret, n) => canaries.set(`kubeconfig ${n}`, secret));
    expect(canaries.size).toBeGreaterThan(25);

    const way = await betweenWorkerAndWorld(on, canary('the webhook’s URL'), onTestFinished);
    // Commands go the worker's way.
    Object.assign(on.env, way.env);
    // The backup job of the example shows its own password to everybody.
    const processes = watchProcesses(without(canaries, /blackbox/));
    onTestFinished(async () => void (await processes.stop()));
    const logs = watchLogs(on.access, 'databases');
    onTestFinished(async () => void (await logs.stop()));
    const sower = fault === 'none' ? undefined : way.sow(fault);
    onTestFinished(() => sower?.stop());
    // One that its cluster refuses says so and ends: whoever keeps it starts it again.
    await on.startWorker().catch(() => on.startWorker());

    const leaks: Leak[] = [];
    const looked = new Set<string>();
    const look = async (place: string) => {
      for (const pod of await upgradePods(on)) leaks.push(...(await inPod(on.access, pod, canaries)));
      looked.add(place);
    };
    const ended = await play(on, ending, look, () => sower?.allow(hits(fault as Fault)));
    expect([...looked]).toContain(ending === 'given up in the trial' ? 'trial' : 'replace');
    if (ended.outcome === 'upgraded') expect([...looked]).toContain('reopen');
    if (ending === 'terminated and recovered') {
      const recovered = await recover(on);
      leaks.push(...seek(canaries, 'pgleap recover', recovered.said));
      ended.outcome = recovered.outcome;
    }
    sower?.stop();

    leaks.push(
      ...(await processes.stop()),
      ...(await inObjects(on.access, canaries)),
      ...(await inTemporal(on, canaries)),
      ...(await inFiles(on, way.temp, canaries)),
      ...(await inCommands(on, ended.workflowId, canaries)),
      ...seek(canaries, 'what workers said', on.said()),
      ...seek(without(canaries, /webhook/), 'what the chat room was told', way.told()),
    );
    const read = await logs.stop();
    for (const [container, text] of read) leaks.push(...seek(canaries, `log of ${container}`, text));
    expect(leaks).toEqual([]);
    // Each server says when it is ready: that is how a log that was read looks.
    const servers = [...read].filter(([, text]) => text.includes('database system is ready to accept connections'));
    expect(servers.length, [...read.keys()].join()).toBeGreaterThan(1);
    expect(way.told()).toContain(ended.upgradeId);
    const happened = sower?.count() ?? 0;
    if (fault === 'none') expect(ended.outcome).toBe(ending === 'upgraded' ? 'upgraded' : 'rolled-back');
    else expect(happened).toBeGreaterThan(fault === 'timeout' ? 2 : 6);
    const seconds = Math.round((performance.now() - began) / 1000);
    tell(context, title, { fault, ending, happened, planted: canaries.size, outcome: ended.outcome, seconds });
  });
}

interface Ended {
  workflowId: string;
  upgradeId: string;
  outcome: string;
}

/**
 * Starts an upgrade and says yes to everything but what its ending asks for, and tries again what failed, until it has ended.
 * One that a fault let preflight refuse is started anew. `next` is called at the start and at each gate.
 */
async function play(
  on: Stage,
  ending: Ending,
  look: (place: string) => Promise<void>,
  next: () => void,
): Promise<Ended> {
  let workflowId = await start(on);
  let parks = 0;
  const answered = new Set<string>();
  const heard = async (name: 'resolve' | 'approve' | 'reject', message: object) =>
    (await calmly(() => sendMessage(on.session, workflowId, name, { ...message, by: 'canaries' }))) !== undefined;
  next();
  for (;;) {
    const status = await calmly(() => upgradeStatus(on.session, workflowId));
    const gate = status === undefined ? null : openGate(status);
    if (status?.stage === 'ended') {
      if (phaseRow(status, 'prepare').state === 'done' || parks > 0) return endedOf(status);
      workflowId = await start(on);
    } else if (status?.park) {
      const { id, options, phase } = status.park;
      if (!answered.has(id)) parks += 1;
      answered.add(id);
      const gaveUp = ending === 'given up in the trial' && phase === 'trial';
      if (gaveUp) await look(phase);
      // Longer than faults are allowed to happen.
      const back = (gaveUp || parks > 40) && options.includes('rollback');
      await heard('resolve', { park: id, action: back ? 'rollback' : 'retry' });
    } else if (gate?.evidence) {
      if (gate.name === 'replace' || gate.name === 'reopen') await look(gate.name);
      const no = ending === 'rejected at gate reopen' && gate.name === 'reopen';
      if (await heard(no ? 'reject' : 'approve', { gate: gate.name, evidence: gate.evidence.hash })) next();
    } else if (status && ending === 'terminated and recovered' && phaseRow(status, 'restore').state === 'running') {
      await on.session.client.workflow.getHandle(workflowId).terminate();
      return { ...endedOf(status), outcome: 'terminated' };
    }
    await sleep(300);
  }
}

function endedOf({ workflowId, upgradeId, result, ending }: UpgradeStatus): Ended {
  return { workflowId, upgradeId, outcome: result?.outcome ?? ending?.how ?? '' };
}

/** By the journal, as often as faults stop it; all that it said, too. */
async function recover(on: Stage): Promise<{ said: string; outcome: string }> {
  let said = '';
  for (let attempt = 0; attempt < 20; attempt += 1) {
    for (const yes of [[], ['--yes']]) {
      const { code, stdout, stderr } = await on.pgleap('recover', 'databases/postgres', '--json', ...yes).done;
      said += stdout + stderr;
      if (code !== 0) break;
      if (yes.length > 0) return { said, outcome: JSON.parse(stdout.trim().split('\n').at(-1) ?? '').outcome };
    }
  }
  throw new Error(`it never recovered: ${said.slice(-3000)}`);
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

/** The database's pod and the upgrade's own that run just now. */
async function upgradePods({ access }: Stage): Promise<PodRef[]> {
  const namespace = 'databases';
  const { items } = await access.core.listNamespacedPod({ namespace });
  const pods = items
    .filter(({ metadata, status }) => metadata?.deletionTimestamp === undefined && status?.phase === 'Running')
    .map(({ metadata, spec }) => ({
      namespace,
      name: metadata?.name ?? '',
      uid: metadata?.uid ?? '',
      container: spec?.containers[0]?.name ?? '',
    }))
    .filter(({ name }) => /^(postgres|pgleap)-/.test(name));
  expect(pods.some(({ name }) => /candidate/.test(name))).toBe(true);
  return pods;
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
async function inFiles(on: Stage, temp: string, canaries: Canaries): Promise<Leak[]> {
  const artifacts = await filesOf(on.artifacts);
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
    const words = `pgleap ${command.join(' ')}`;
    let stdout = '';
    let stderr = '';
    // A worker may be too busy to answer in time.
    for (let asked = 0; asked < 5 && stdout === ''; asked += 1) {
      ({ stdout, stderr } = await on.pgleap(...command).done);
      leaks.push(...seek(canaries, words, stdout + stderr));
    }
    expect(stdout, `${words}: ${stderr}`).not.toBe('');
  }
  return leaks;
}
