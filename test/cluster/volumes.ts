import { randomBytes } from 'node:crypto';
import { existsSync, globSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import {
  KubeConfig,
  KubernetesObjectApi,
  PatchStrategy,
  StorageV1Api,
  type KubernetesObject,
} from '@kubernetes/client-node';
import { parseAllDocuments } from 'yaml';
import { placeBinary, type Binaries } from './binaries.ts';
import { folders, kubeconfigFile, kubeletFolder, nodeName, stateFolder } from './layout.ts';
import type { Network } from './network.ts';
import type { Component } from './processes.ts';

const csiDriver = 'linodebs.csi.linode.com';
const linodeId = 40_217_933;
const region = 'eu-central';
const port = 4701;
const volumesFolder = path.join(stateFolder, 'linode');
const tokenFile = path.join(folders.config, 'linode-token');
const socket = `${kubeletFolder}/plugins/${csiDriver}/csi.sock`;
const objectsFile = path.join(import.meta.dirname, 'csi', 'linode-block-storage.yaml');
const standInSources = [
  path.join(import.meta.dirname, 'linode.ts'),
  ...globSync(path.join(import.meta.dirname, '../../src/sandbox/clouds/*.ts')).toSorted(),
];

/** The Linode API's stand-in: what stands in for https://api.linode.com, and what the node is there. */
export interface LinodeFacts {
  /** Reached from the machine, the node and the pods. */
  url: string;
  tokenFile: string;
  /** A volume's file system is the image `<volumesFolder>/<id>/data/disk.img`. */
  volumesFolder: string;
  linodeId: number;
  region: string;
}

export function describeLinode(network: Network): LinodeFacts {
  return { url: `http://${network.node}:${port}`, tokenFile, volumesFolder, linodeId, region };
}

/** The API's stand-in, the CSI driver over it, and Kubernetes' own sidecars with the arguments that Linode gives them. */
export async function describeVolumes(network: Network, binaries: Binaries): Promise<Component[]> {
  await mkdir(folders.config, { recursive: true });
  // Kept over restarts: a worker that was given it goes on.
  if (!existsSync(tokenFile)) await writeFile(tokenFile, `${randomBytes(32).toString('hex')}\n`, { mode: 0o600 });
  const linode = describeLinode(network);
  const sidecar = [`--kubeconfig=${kubeconfigFile}`, `--csi-address=${socket}`, '--v=2'];
  return [
    {
      name: 'linode',
      command: process.execPath,
      args: [
        path.join(import.meta.dirname, 'linode.ts'),
        `--host=${network.node}`,
        `--port=${port}`,
        `--region=${region}`,
        `--state-dir=${volumesFolder}`,
        `--token-file=${tokenFile}`,
      ],
      inputs: standInSources.map((file) => readFileSync(file, 'utf8')),
    },
    {
      name: 'csi',
      command: await placeBinary(binaries.csi),
      args: [
        `--kubeconfig=${kubeconfigFile}`,
        `--kubelet-dir=${kubeletFolder}`,
        `--linode-url=${linode.url}`,
        `--linode-token-file=${tokenFile}`,
        `--linode-id=${linodeId}`,
        `--region=${region}`,
        `--volumes-dir=${volumesFolder}`,
      ],
    },
    { name: 'csi-attacher', command: await placeBinary(binaries['csi-attacher']), args: [...sidecar, '--timeout=30s'] },
    { name: 'csi-resizer', command: await placeBinary(binaries['csi-resizer']), args: sidecar },
  ];
}

/** Makes the CSIDriver and the storage classes of LKE, or puts them right. */
export async function applyStorage(): Promise<void> {
  const config = new KubeConfig();
  config.loadFromFile(kubeconfigFile);
  const api = KubernetesObjectApi.makeApiClient(config);
  for (const document of parseAllDocuments(readFileSync(objectsFile, 'utf8'))) {
    const object = document.toJS() as KubernetesObject;
    await api.patch(object, undefined, undefined, 'cluster-up', true, PatchStrategy.ServerSideApply);
  }
}

/** Whether the kubelet knows the driver: until then no volume is attached. */
export async function driverIsRegistered(): Promise<boolean> {
  const config = new KubeConfig();
  config.loadFromFile(kubeconfigFile);
  const node = await config.makeApiClient(StorageV1Api).readCSINode({ name: nodeName });
  return node.spec.drivers.some(({ name }) => name === csiDriver);
}
