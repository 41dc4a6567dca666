import { closeSync, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { isActive, isReady, type Pod, type Service } from '../objects.ts';
import { matchesAll } from '../selectors.ts';
import type { Store } from '../store.ts';
import { feed, startQueue, type Context, type Controller } from './loop.ts';

/** Keeps the names of all Services in the hosts file that every container sees. */
export function startServices(context: Context & { hostsFile: string }): Controller {
  const { store, hostsFile } = context;
  const own = readFileSync(hostsFile, 'utf8').trimEnd();
  let written = '';
  const queue = startQueue('services', context, () => {
    const text = [own, ...hostLines(store), ''].join('\n');
    if (text === written) return;
    writeInPlace(hostsFile, text);
    written = text;
  });
  return feed(store, queue, { services: () => ['all'], pods: () => ['all'] });
}

/** Containers have this very file mounted, so it keeps its inode; and it is never seen empty. */
function writeInPlace(path: string, text: string): void {
  const file = openSync(path, 'r+');
  try {
    const length = writeSync(file, text, 0);
    ftruncateSync(file, length);
  } finally {
    closeSync(file);
  }
}

function hostLines(store: Store): string[] {
  const services = store.list('services');
  const pods = store.list('pods');
  return services.flatMap((service) => {
    const { name, namespace } = service.metadata;
    const backends = backendsOf(service, pods);
    const [first] = backends;
    if (first === undefined) return [];
    const full = [`${name}.${namespace}.svc.cluster.local`, `${name}.${namespace}.svc`, `${name}.${namespace}`];
    const unique = services.filter((other) => other.metadata.name === name).length === 1;
    const lines = [`${first.status?.podIP} ${[...full, ...(unique ? [name] : [])].join(' ')}`];
    for (const pod of backends) {
      if (pod.spec.subdomain !== name || pod.spec.hostname === undefined) continue;
      const host = `${pod.spec.hostname}.${name}`;
      lines.push(`${pod.status?.podIP} ${host}.${namespace}.svc.cluster.local ${host}.${namespace}.svc ${host}`);
    }
    return lines;
  });
}

function backendsOf(service: Service, pods: Pod[]): Pod[] {
  return pods.filter(
    (pod) =>
      pod.metadata.namespace === service.metadata.namespace &&
      matchesAll(service.spec.selector, pod.metadata.labels) &&
      pod.status?.podIP !== undefined &&
      (service.spec.publishNotReadyAddresses === true || (isActive(pod) && isReady(pod))),
  );
}
