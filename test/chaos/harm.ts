/** What is done to the other victims. Each resolves when it has been done, and was seen to be; to false when nobody is there. */
import { readdir, readFile, readlink } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import type { V1Pod } from '@kubernetes/client-node';
import { isFailure } from '../../src/activities/errors.ts';
import { execInPod, runInPod } from '../../src/activities/kubernetes/exec.ts';
import type { PodRef } from '../../src/domain/facts.ts';
import type { Access } from '../../src/sandbox/world/access.ts';

const namespace = 'databases';

/** The first pod of that kind that runs; the target is where the source was. */
async function podFor(access: Access, role: 'database' | 'candidate'): Promise<PodRef | undefined> {
  const { items } = await access.core.listNamespacedPod({ namespace });
  const found = items.find((pod) => pod.status?.phase === 'Running' && isFor(pod, role));
  if (found === undefined) return undefined;
  const { name = '', uid = '' } = found.metadata ?? {};
  return { namespace, name, uid, container: found.spec?.containers[0]?.name ?? '' };
}

function isFor({ metadata }: V1Pod, role: 'database' | 'candidate'): boolean {
  const name = metadata?.name ?? '';
  if (metadata?.deletionTimestamp !== undefined) return false;
  return role === 'candidate' ? /^pgleap-.*-candidate/.test(name) : name.startsWith('postgres-');
}

/** SIGKILL for the container's first process, from outside: from inside, a pid namespace protects it. */
export async function killServer(access: Access, role: 'database' | 'candidate'): Promise<boolean> {
  const pod = await podFor(access, role);
  if (pod === undefined) return false;
  const inside = await runInPod(access.kubeConfig, pod, ['readlink', '/proc/self/ns/pid']).then(
    (text) => text.trim(),
    whenGone,
  );
  if (inside === undefined) return false;
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    if ((await readlink(`/proc/${pid}/ns/pid`).catch(() => '')) !== inside) continue;
    const status = await readFile(`/proc/${pid}/status`, 'utf8').catch(() => '');
    if (!/^NSpid:.*\t1$/m.test(status)) continue;
    process.kill(Number(pid), 'SIGKILL');
    // The kernel may take its time to end it, but not for ever: its worker stands still meanwhile.
    for (let wait = 0; wait < 1500; wait += 1) {
      if ((await readlink(`/proc/${pid}/ns/pid`).catch(() => '')) !== inside) return true;
      await sleep(20);
    }
    throw new Error(`the first process of ${pod.name} was killed and did not end`);
  }
  throw new Error(`the first process of ${pod.name} was not found`);
}

/** The pod ended meanwhile, of another death, or its container is just being started again. */
function whenGone(error: unknown): undefined {
  const isStarting = error instanceof Error && error.message.includes('container not found');
  if (!isStarting && !isFailure(error, 'StreamBroken', 'PodLost')) throw error;
}

export async function deleteCandidate(access: Access): Promise<boolean> {
  const pod = await podFor(access, 'candidate');
  if (pod === undefined) return false;
  await access.core.deleteNamespacedPod({ namespace, name: pod.name, gracePeriodSeconds: 0 });
  return true;
}

/** All that is on it: dumps, jobs, the candidate's own data. */
export async function emptyScratch(access: Access): Promise<boolean> {
  const pod = await podFor(access, 'candidate');
  if (pod === undefined) return false;
  const argv = ['sh', '-c', 'rm -rf /pgleap/* 2>/dev/null; rm -rf /pgleap/*; ls /pgleap'];
  // The server goes on writing into folders that are being removed.
  for (let attempt = 1; ; attempt += 1) {
    const done = await execInPod(access.kubeConfig, pod, argv).catch(whenGone);
    if (done === undefined) return false;
    const { stdout } = done;
    if (!/dump|jobs/.test(stdout.toString())) return true;
    if (attempt === 5) throw new Error(`the scratch volume is not empty: ${stdout.toString()}`);
  }
}

/** SIGKILL for the server that listens on `port`: a child of ours. */
export async function killTemporal(port: number): Promise<void> {
  for (const pid of (await readdir('/proc')).filter((name) => /^\d+$/.test(name))) {
    const argv = (await readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')).split('\0');
    if (argv[1] !== 'server' || argv[argv.indexOf('--port') + 1] !== String(port)) continue;
    process.kill(Number(pid), 'SIGKILL');
    return;
  }
  throw new Error(`no Temporal server was found on port ${port}`);
}
