import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { podCgroup } from './cgroups.ts';
import { kubeconfig, pki } from './certificates.ts';
import { containerdSocket, folders, nodeName } from './layout.ts';
import type { Network } from './network.ts';
import type { Component } from './processes.ts';
import { writeIfChanged } from './state.ts';

export const pauseImage = 'docker.io/local/pause:1';
const configFile = (name: string) => path.join(folders.config, name);

function containerdConfig(): string {
  return `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "${containerdSocket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "${pauseImage}"
  # Lowering it needs a capability that root in a container may lack.
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "${configFile('cni')}"
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      SystemdCgroup = false
`;
}

/** Each pod gets a link of its own and a route to it: no bridge, so nothing depends on bridges being filtered. */
function cniConfig(network: Network): object {
  return {
    cniVersion: '0.4.0',
    name: 'pods',
    plugins: [
      {
        type: 'ptp',
        mtu: 1500,
        ipam: { type: 'host-local', dataDir: '/run/cni', subnet: network.pods, routes: [{ dst: '0.0.0.0/0' }] },
      },
      { type: 'portmap', capabilities: { portMappings: true } },
    ],
  };
}

function kubeletConfig(network: Network): object {
  return {
    apiVersion: 'kubelet.config.k8s.io/v1beta1',
    kind: 'KubeletConfiguration',
    address: network.node,
    authentication: {
      anonymous: { enabled: false },
      webhook: { enabled: true },
      x509: { clientCAFile: pki('ca.crt') },
    },
    authorization: { mode: 'Webhook' },
    tlsCertFile: pki('kubelet-server.crt'),
    tlsPrivateKeyFile: pki('kubelet-server.key'),
    containerRuntimeEndpoint: `unix://${containerdSocket}`,
    cgroupDriver: 'cgroupfs',
    cgroupRoot: podCgroup,
    enforceNodeAllocatable: [],
    failSwapOn: false,
    // How full the machine is must not decide whether a test passes.
    evictionHard: {
      'memory.available': '0%',
      'nodefs.available': '0%',
      'nodefs.inodesFree': '0%',
      'imagefs.available': '0%',
    },
    imageGCHighThresholdPercent: 100,
    clusterDNS: [network.node],
    clusterDomain: 'cluster.local',
    resolvConf: configFile('resolv.conf'),
    // Its default lies outside of what is removed.
    volumePluginDir: '/var/lib/kubelet/volume-plugins',
    syncFrequency: '10s',
    nodeStatusUpdateFrequency: '5s',
    enableControllerAttachDetach: true,
  };
}

function proxyConfig(network: Network): object {
  return {
    apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
    kind: 'KubeProxyConfiguration',
    clientConnection: { kubeconfig: kubeconfig('proxy') },
    mode: 'iptables',
    hostnameOverride: nodeName,
    clusterCIDR: network.pods,
    bindAddress: network.node,
    // These settings are the whole machine's: leave them alone.
    conntrack: { maxPerCore: 0, min: 0, tcpCloseWaitTimeout: '0s', tcpEstablishedTimeout: '0s' },
    iptables: { minSyncPeriod: '100ms', syncPeriod: '30s' },
  };
}

/**
 * Writes every configuration file and says which processes make the cluster, in the order in which they start.
 * @param binary the one with every program of Kubernetes
 */
export async function describeComponents(network: Network, binary: string): Promise<Component[]> {
  const files = {
    'containerd.toml': containerdConfig(),
    'cni/pods.conflist': JSON.stringify(cniConfig(network), null, 2),
    'resolv.conf': `nameserver ${network.node}\n`,
    'kubelet.json': JSON.stringify(kubeletConfig(network), null, 2),
    'proxy.json': JSON.stringify(proxyConfig(network), null, 2),
  };
  await mkdir(configFile('cni'), { recursive: true });
  for (const [name, text] of Object.entries(files)) await writeIfChanged(configFile(name), text);
  const program = (name: string, args: string[], inputs: string[] = []): Component => ({
    name,
    command: binary,
    args: [name, ...args],
    inputs,
  });
  return [
    {
      name: 'etcd',
      command: 'etcd',
      args: [
        `--name=${nodeName}`,
        '--data-dir=/var/lib/etcd',
        '--logger=zap',
        '--log-level=warn',
        '--listen-client-urls=http://127.0.0.1:2379',
        '--advertise-client-urls=http://127.0.0.1:2379',
        '--listen-peer-urls=http://127.0.0.1:2380',
        '--initial-advertise-peer-urls=http://127.0.0.1:2380',
        `--initial-cluster=${nodeName}=http://127.0.0.1:2380`,
        '--auto-compaction-retention=1',
      ],
    },
    {
      name: 'containerd',
      command: 'containerd',
      args: ['--config', configFile('containerd.toml'), '--log-level', 'warn'],
      inputs: [files['containerd.toml'], files['cni/pods.conflist']],
    },
    program('kube-apiserver', [
      '--etcd-servers=http://127.0.0.1:2379',
      `--advertise-address=${network.node}`,
      '--secure-port=6443',
      `--service-cluster-ip-range=${network.services}`,
      `--client-ca-file=${pki('ca.crt')}`,
      `--tls-cert-file=${pki('apiserver.crt')}`,
      `--tls-private-key-file=${pki('apiserver.key')}`,
      `--kubelet-client-certificate=${pki('apiserver-to-kubelet.crt')}`,
      `--kubelet-client-key=${pki('apiserver-to-kubelet.key')}`,
      `--kubelet-certificate-authority=${pki('ca.crt')}`,
      '--kubelet-preferred-address-types=InternalIP',
      '--service-account-issuer=https://kubernetes.default.svc.cluster.local',
      `--service-account-key-file=${pki('service-accounts.key')}`,
      `--service-account-signing-key-file=${pki('service-accounts.key')}`,
      '--authorization-mode=Node,RBAC',
      '--allow-privileged=true',
      '--shutdown-watch-termination-grace-period=0s',
    ]),
    program('kube-controller-manager', [
      `--kubeconfig=${kubeconfig('controller-manager')}`,
      `--service-account-private-key-file=${pki('service-accounts.key')}`,
      `--root-ca-file=${pki('ca.crt')}`,
      '--use-service-account-credentials=true',
      '--leader-elect=false',
      '--bind-address=127.0.0.1',
      // Tests wait for these loops; their defaults are for clusters of thousands.
      '--attach-detach-reconcile-sync-period=5s',
      '--pvclaimbinder-sync-period=5s',
      '--horizontal-pod-autoscaler-sync-period=5s',
      '--kube-api-qps=200',
      '--kube-api-burst=400',
    ]),
    program('kube-scheduler', [
      `--kubeconfig=${kubeconfig('scheduler')}`,
      '--leader-elect=false',
      '--bind-address=127.0.0.1',
    ]),
    program('kube-proxy', [`--config=${configFile('proxy.json')}`], [files['proxy.json']]),
    program('dns', [`--kubeconfig=${kubeconfig('proxy')}`, `--listen=${network.node}:53`]),
    program(
      'kubelet',
      [
        `--config=${configFile('kubelet.json')}`,
        `--kubeconfig=${kubeconfig('kubelet')}`,
        `--node-ip=${network.node}`,
        `--hostname-override=${nodeName}`,
      ],
      [files['kubelet.json'], files['resolv.conf']],
    ),
  ];
}
