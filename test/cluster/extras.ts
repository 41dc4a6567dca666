import type { Component } from './processes.ts';
import type { ClusterFacts } from './up.ts';

/**
 * Further processes that `cluster:up` starts on the machine, inside the cluster's network and mount namespaces, once the
 * node is ready; `cluster:down` ends them. Their output goes to `<logs>/<name>.log`.
 */
export function describeExtras(_cluster: ClusterFacts): Promise<Component[]> {
  return Promise.resolve([]);
}
