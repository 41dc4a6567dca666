import { existsSync } from 'node:fs';
import { kubeconfigFile } from './layout.ts';
import { readState } from './state.ts';
import { describeCluster, type ClusterFacts } from './up.ts';

/** The cluster that the tests use: one that was given, or this machine's own. */
export type TestCluster = { own: false; kubeconfig: string } | ({ own: true } & ClusterFacts);

/**
 * Finds the cluster for the tests. `PGLEAP_TEST_KUBECONFIG` names one to use instead of our own. KUBECONFIG is not looked
 * at: in many shells it names production, and tests create and delete things.
 */
export function openCluster(): TestCluster {
  const given = process.env['PGLEAP_TEST_KUBECONFIG'];
  if (given !== undefined && given !== '') {
    if (!existsSync(given)) throw new Error(`PGLEAP_TEST_KUBECONFIG names ${given}, and there is no such file.`);
    return { own: false, kubeconfig: given };
  }
  const state = readState();
  if (state?.phase !== 'up' || !existsSync(kubeconfigFile)) {
    throw new Error('No test cluster is up. Start it (npm run cluster:up), or name another in PGLEAP_TEST_KUBECONFIG.');
  }
  return { own: true, ...describeCluster(state) };
}
