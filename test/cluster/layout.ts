import path from 'node:path';

/**
 * Names the cgroup, the network link and the folder of the test cluster. All tests of a machine share one; only the tests of
 * the cluster itself make another beside it. At most 15 characters: Linux allows a link no more.
 */
export const clusterName = process.env['PGLEAP_CLUSTER_NAME'] ?? 'pgleap-cluster';

/** Everything that a running cluster keeps on disk. The programs of the cluster see `lib` in it as their /var/lib. */
export const stateFolder = path.join('/var/lib', clusterName);

/** What survives `cluster:down`: binaries and images, each under a name with the hash of what it was made from. */
export const cacheFolder = path.join(import.meta.dirname, '..', '..', '.cache', 'cluster');

/** Within the state folder; the same paths are true inside the cluster's mount namespace. */
export const folders = {
  pki: path.join(stateFolder, 'pki'),
  config: path.join(stateFolder, 'config'),
  logs: path.join(stateFolder, 'logs'),
  lib: path.join(stateFolder, 'lib'),
  varLog: path.join(stateFolder, 'var-log'),
};

export const kubeconfigFile = path.join(stateFolder, 'admin.kubeconfig');
export const nodeName = 'node-1';
/** As seen inside the cluster's mount namespace, where the usual paths are true. */
export const kubeletFolder = '/var/lib/kubelet';
export const containerdSocket = '/run/containerd/containerd.sock';

/** Something a person can mend; shown without a stack trace. */
export class ClusterProblem extends Error {
  override name = 'ClusterProblem';
}

/** What this machine lacks: nothing is wrong with the cluster, it cannot be here. */
export class MachineUnfit extends ClusterProblem {}
