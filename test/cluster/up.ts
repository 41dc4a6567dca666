import { readFileSync } from 'node:fs';
import { request } from 'node:https';
import { setTimeout as sleep } from 'node:timers/promises';
import { CoreV1Api, KubeConfig } from '@kubernetes/client-node';
import { binariesAreBuilt, buildBinaries, placeBinary, type Binaries } from './binaries.ts';
import { clusterPids, componentPids, makePodCgroups } from './cgroups.ts';
import { convergeCertificates, pki } from './certificates.ts';
import { gatherFacts, problems } from './checks.ts';
import { run } from './command.ts';
import { describeComponents } from './components.ts';
import { tearDown } from './down.ts';
import { importImages, importPause, makeRoots, type Roots } from './images.ts';
import {
  ClusterProblem,
  MachineUnfit,
  containerdSocket,
  kubeconfigFile,
  kubeletFolder,
  nodeName,
  folders,
} from './layout.ts';
import { chooseNetwork, convergeNetwork, usedRanges, type Network } from './network.ts';
import { installPackages } from './packages.ts';
import {
  convergeComponent,
  convergeNamespaces,
  enterCluster,
  holderPid,
  logEnd,
  stopComponent,
  type Component,
} from './processes.ts';
import { say, step } from './progress.ts';
import { readState, writeState, type ClusterState } from './state.ts';
import { applyStorage, describeLinode, describeVolumes, driverIsRegistered, type LinodeFacts } from './volumes.ts';

/** What a test, or a person, needs in order to use the cluster. */
export interface ClusterFacts {
  kubeconfig: string;
  network: Network;
  nodeName: string;
  /** As seen inside the cluster's mount namespace. */
  kubeletFolder: string;
  containerdSocket: string;
  logs: string;
  linode: LinodeFacts;
}

export function describeCluster(state: ClusterState): ClusterFacts {
  return {
    kubeconfig: kubeconfigFile,
    network: state.network,
    nodeName,
    kubeletFolder,
    containerdSocket,
    logs: folders.logs,
    linode: describeLinode(state.network),
  };
}

/** Kernel settings that the kubelet writes at its start. */
const touchedSysctls = [
  'vm/overcommit_memory',
  'vm/panic_on_oom',
  'kernel/panic',
  'kernel/panic_on_oops',
  'kernel/keys/root_maxkeys',
  'kernel/keys/root_maxbytes',
];

/**
 * Makes the cluster, or what is missing of it; done in seconds when everything is there. When it fails, or is told to
 * stop, a cluster that it began itself is removed again, and one that was there before is left as it is.
 * @throws MachineUnfit with everything that is in the way and what to do about it, ClusterProblem for what fails later
 */
export async function bringUp(signal?: AbortSignal): Promise<ClusterState> {
  const before = readState();
  const facts = await gatherFacts(before, binariesAreBuilt());
  const found = problems(facts);
  if (found.length > 0) throw new MachineUnfit(found.join('\n'));
  await step(`installing ${facts.packages.join(', ')}`, () => installPackages(facts.packages, signal));

  const parts = await makeParts(signal);
  const network = facts.network ?? chooseNetwork(await usedRanges());
  if (network === undefined) throw new ClusterProblem('No private address range is free on this machine.');
  const state: ClusterState = before ?? {
    phase: 'building',
    network,
    sysctls: Object.fromEntries(touchedSysctls.map((name) => [name, readFileSync(`/proc/sys/${name}`, 'utf8').trim()])),
    started: {},
  };
  try {
    await writeState({ ...state, phase: 'building' });
    await converge(state, parts, signal);
  } catch (error) {
    if (before === undefined) {
      say('it could not be made; removing what there is of it');
      await tearDown({ cache: false });
    }
    throw error;
  }
  state.phase = 'up';
  await writeState(state);
  return state;
}

interface Parts {
  binaries: Binaries;
  roots: Roots;
}

/** Compiling and fetching side by side; the first that fails ends the other. */
async function makeParts(signal?: AbortSignal): Promise<Parts> {
  const failed = new AbortController();
  const either = AbortSignal.any([failed.signal, ...(signal === undefined ? [] : [signal])]);
  const endOther = (error: unknown) => {
    failed.abort();
    throw error;
  };
  const building = step('building Kubernetes from its Go modules (5 to 15 minutes, once)', () => buildBinaries(either));
  const [binaries, roots] = await Promise.allSettled([building.catch(endOther), makeRoots(either).catch(endOther)]);
  if (binaries.status === 'fulfilled' && roots.status === 'fulfilled') {
    return { binaries: binaries.value, roots: roots.value };
  }
  // The one that was ended only says so.
  const reasons = [binaries, roots].flatMap((one) => (one.status === 'rejected' ? [one.reason as Error] : []));
  throw reasons.find((reason) => !(reason.cause instanceof Error && reason.cause.name === 'AbortError')) ?? reasons[0];
}

async function converge(state: ClusterState, { binaries, roots }: Parts, signal?: AbortSignal): Promise<void> {
  await makePodCgroups();
  await convergeNamespaces();
  await convergeNetwork(state.network, holderPid());
  await convergeCertificates(state.network);
  const kubernetes = await placeBinary(binaries.kubernetes);
  const components = await describeComponents(state.network, kubernetes);
  const running: string[] = [];
  const goOn = () => {
    signal?.throwIfAborted();
    const ended = running.find((name) => componentPids(name).length === 0);
    if (ended !== undefined) throw new ClusterProblem(`${ended} ended:\n${logEnd(ended)}`);
  };
  const until = (name: string, limitMs: number, check: () => Promise<boolean>) => waitFor(name, limitMs, check, goOn);
  const start = async (name: string) => {
    goOn();
    const component = components.find((one) => one.name === name);
    if (component === undefined) throw new Error(`there is no component ${name}`);
    await startComponent(state, component);
    running.push(name);
  };
  await start('etcd');
  await start('containerd');
  await until('containerd', 30_000, async () => {
    await run('nsenter', [...enterCluster(), 'ctr', '--address', containerdSocket, 'version']);
    return true;
  });
  await importPause(binaries.pause);
  await start('kube-apiserver');
  await step('waiting for the API server', () => until('kube-apiserver', 120_000, () => isReady(state.network)));
  for (const name of ['kube-controller-manager', 'kube-scheduler', 'kube-proxy', 'dns', 'kubelet']) await start(name);
  await step('waiting for the node', () => until('kubelet', 120_000, nodeIsReady));
  await importImages(roots, signal);
  for (const component of await describeVolumes(state.network, binaries)) await startComponent(state, component);
  await applyStorage();
  await step('waiting for the CSI driver', () => until('csi', 60_000, driverIsRegistered));
}

/**
 * Ends a component of the running cluster and starts it again, as a crash or an update of the node would; pods go on.
 * Returns when its process runs; it may need seconds more until it answers.
 */
export async function restartComponent(name: string): Promise<void> {
  const state = readState();
  if (state === undefined) throw new ClusterProblem('No test cluster is up. Start it: npm run cluster:up');
  const binaries = await buildBinaries();
  const components = [
    ...(await describeComponents(state.network, await placeBinary(binaries.kubernetes))),
    ...(await describeVolumes(state.network, binaries)),
  ];
  const component = components.find((one) => one.name === name);
  if (component === undefined) throw new Error(`there is no component ${name}`);
  await stopComponent(component);
  await convergeComponent(state, component);
}

async function startComponent(state: ClusterState, component: Component): Promise<void> {
  if ((await convergeComponent(state, component)) === 'started') say(`started ${component.name}`);
}

/** @throws ClusterProblem with the end of the component's log when `limitMs` passes, and whatever `goOn` throws */
async function waitFor(component: string, limitMs: number, check: () => Promise<boolean>, goOn: () => void) {
  const started = performance.now();
  while (!(await check().catch(() => false))) {
    goOn();
    if (performance.now() - started > limitMs) {
      throw new ClusterProblem(`${component} is not ready after ${limitMs / 1000} s:\n${logEnd(component)}`);
    }
    await sleep(200);
  }
}

function isReady(network: Network): Promise<boolean> {
  return new Promise((resolve) => {
    const ca = readFileSync(pki('ca.crt'));
    const asked = request({ host: network.node, port: 6443, path: '/readyz', ca, timeout: 2000 }, (response) => {
      response.resume();
      resolve(response.statusCode === 200);
    });
    asked.on('error', () => resolve(false));
    asked.on('timeout', () => asked.destroy());
    asked.end();
  });
}

async function nodeIsReady(): Promise<boolean> {
  const config = new KubeConfig();
  config.loadFromFile(kubeconfigFile);
  const node = await config.makeApiClient(CoreV1Api).readNode({ name: nodeName });
  return node.status?.conditions?.some(({ type, status }) => type === 'Ready' && status === 'True') ?? false;
}

/** Proportional set size of every process of the cluster, in bytes: shared pages count once. */
export function clusterMemory(): number {
  let kilobytes = 0;
  for (const pid of clusterPids()) {
    try {
      kilobytes += Number(/^Pss:\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/smaps_rollup`, 'utf8'))?.[1] ?? 0);
    } catch {
      // It ended while we looked.
    }
  }
  return kilobytes * 1024;
}
