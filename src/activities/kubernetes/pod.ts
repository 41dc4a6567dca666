import type { KubeConfig } from '@kubernetes/client-node';
import { asyncLocalStorage } from '@temporalio/activity';
import type { PodRef } from '../../domain/facts.ts';
import { fail } from '../errors.ts';
import { createKube, type Kube } from './client.ts';

/**
 * How long one look holds in an activity: polls and chunks come many a second, and a pod takes longer to be replaced. By the wall
 * clock, which goes on while a machine is suspended.
 */
const trustMs = 10_000;

const clients = new WeakMap<KubeConfig, Kube>();
/** Of each running activity: when which pod was last seen to be the one that is meant, by uid. */
const seen = new WeakMap<object, Map<string, number>>();

/**
 * Throws PodLost unless the pod of this name is the one that is meant, and may still run commands: an exec goes by name, and
 * a StatefulSet gives a new pod the old one's. `again` looks also where it was seen a moment ago.
 */
export async function assertSamePod(kc: KubeConfig, pod: PodRef, again = false): Promise<void> {
  const activity = asyncLocalStorage.getStore();
  const known = activity === undefined ? new Map<string, number>() : (seen.get(activity) ?? new Map<string, number>());
  if (activity !== undefined) seen.set(activity, known);
  if (!again && Date.now() - (known.get(pod.uid) ?? -Infinity) < trustMs) return;
  const kube = clients.get(kc) ?? createKube(kc);
  clients.set(kc, kube);
  const found = await kube.find('Pod', { namespace: pod.namespace, name: pod.name });
  const phase = found?.status?.phase;
  const where = `pod ${pod.namespace}/${pod.name}`;
  if (found === undefined) throw fail('PodLost', `${where} is gone`);
  if (found.metadata?.uid !== pod.uid)
    throw fail('PodLost', `${where} is another one now: it has uid ${found.metadata?.uid}, meant was ${pod.uid}`);
  if (phase === 'Failed' || phase === 'Succeeded')
    throw fail('PodLost', `${where} has ended: ${found.status?.reason ?? phase} ${found.status?.message ?? ''}`.trim());
  known.set(pod.uid, Date.now());
}
