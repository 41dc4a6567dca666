import { existsSync } from 'node:fs';
import { mkdir, readFile, rename } from 'node:fs/promises';
import path from 'node:path';
import { run } from './command.ts';
import { folders, kubeconfigFile, nodeName } from './layout.ts';
import type { Network } from './network.ts';
import { writeIfChanged } from './state.ts';

interface Certificate {
  name: string;
  /** As openssl writes it: `/O=…/CN=…`. */
  subject: string;
  names?: string[];
}

function certificates(network: Network): Certificate[] {
  const api = ['kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'kubernetes.default.svc.cluster.local'];
  return [
    {
      name: 'apiserver',
      subject: '/CN=kube-apiserver',
      names: [...api.map((name) => `DNS:${name}`), `IP:${network.apiService}`, `IP:${network.node}`, 'IP:127.0.0.1'],
    },
    {
      name: 'kubelet-server',
      subject: `/O=system:nodes/CN=system:node:${nodeName}`,
      names: [`DNS:${nodeName}`, `IP:${network.node}`],
    },
    { name: 'admin', subject: '/O=system:masters/CN=admin' },
    { name: 'apiserver-to-kubelet', subject: '/O=system:masters/CN=kube-apiserver' },
    { name: 'controller-manager', subject: '/CN=system:kube-controller-manager' },
    { name: 'scheduler', subject: '/CN=system:kube-scheduler' },
    { name: 'kubelet', subject: `/O=system:nodes/CN=system:node:${nodeName}` },
    { name: 'proxy', subject: '/CN=system:kube-proxy' },
  ];
}

export const pki = (file: string) => path.join(folders.pki, file);
export const kubeconfig = (name: string) => path.join(folders.config, `${name}.kubeconfig`);

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes'];

/** Makes the authority, every certificate and kubeconfig that is not there yet. The keys are of no use outside this machine. */
export async function convergeCertificates(network: Network): Promise<void> {
  await mkdir(folders.pki, { recursive: true, mode: 0o700 });
  await mkdir(folders.config, { recursive: true });
  await makeOnce('ca', ['-subj', '/CN=pgleap-cluster', '-addext', 'keyUsage=critical,keyCertSign,cRLSign']);
  for (const { name, subject, names } of certificates(network)) {
    const signer = ['-CA', pki('ca.crt'), '-CAkey', pki('ca.key')];
    const uses = ['-addext', 'basicConstraints=critical,CA:FALSE', '-addext', 'extendedKeyUsage=serverAuth,clientAuth'];
    const hosts = names === undefined ? [] : ['-addext', `subjectAltName=${names.join(',')}`];
    await makeOnce(name, [...signer, '-subj', subject, ...uses, ...hosts]);
  }
  if (!existsSync(pki('service-accounts.key'))) {
    await run('openssl', ['genrsa', '-out', pki('service-accounts.new'), '2048']);
    await rename(pki('service-accounts.new'), pki('service-accounts.key'));
  }
  for (const name of ['controller-manager', 'scheduler', 'kubelet', 'proxy']) {
    await writeKubeconfig(network, name, kubeconfig(name));
  }
  await writeKubeconfig(network, 'admin', kubeconfigFile);
}

async function makeOnce(name: string, options: string[]): Promise<void> {
  if (existsSync(pki(`${name}.crt`))) return;
  const key = pki(`${name}.key`);
  const made = pki(`${name}.new`);
  await run('openssl', ['req', '-x509', '-days', '3650', ...newKey, '-keyout', key, '-out', made, ...options]);
  await rename(made, pki(`${name}.crt`));
}

async function writeKubeconfig(network: Network, name: string, file: string): Promise<void> {
  const base64 = async (part: string) => (await readFile(pki(part))).toString('base64');
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    clusters: [
      {
        name: 'pgleap-cluster',
        cluster: { server: `https://${network.node}:6443`, 'certificate-authority-data': await base64('ca.crt') },
      },
    ],
    users: [
      {
        name,
        user: {
          'client-certificate-data': await base64(`${name}.crt`),
          'client-key-data': await base64(`${name}.key`),
        },
      },
    ],
    contexts: [{ name: 'pgleap-cluster', context: { cluster: 'pgleap-cluster', user: name } }],
    'current-context': 'pgleap-cluster',
  };
  await writeIfChanged(file, JSON.stringify(config, null, 2), 0o600);
}
