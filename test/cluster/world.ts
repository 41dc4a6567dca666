/** The example world on the test cluster, as a process: `node test/cluster/world.ts --state DIR [--from 15] [--size 20] [--topology sandbox]`. */
import { readFileSync } from 'node:fs';
import { connect as connectTcp } from 'node:net';
import { Duplex, PassThrough } from 'node:stream';
import { KubeConfig, PatchStrategy, PortForward, setHeaderOptions, type V1Pod } from '@kubernetes/client-node';
import { eventually, maybe, openAccess, type Access } from '../../src/sandbox/world/access.ts';
import { raiseWorld } from '../../src/sandbox/world/raise.ts';
import type { Connect } from '../../src/sandbox/world/site.ts';
import { stand } from '../../src/sandbox/world/stand.ts';
import { EXAMPLE, namespacesOf } from '../../src/sandbox/world/world.ts';
import { ClusterProblem } from './layout.ts';
import { openCluster, type TestCluster } from './open.ts';

const mergePatch = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

await stand('world on the cluster', async (options) => {
  const cluster = openCluster();
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(cluster.kubeconfig);
  const access = openAccess(kubeConfig);
  const linode = findLinode(cluster);
  const clear = async () => {
    await clearNamespaces(access);
    await refuseOthers(access, await namespacesOf(options.topology));
    if (cluster.own) await removeVolumes(access, linode);
  };
  // A run that was killed left its world; its data would be taken for this one's.
  await clear();
  try {
    const world = await raiseWorld({
      ...options,
      kubeconfig: cluster.kubeconfig,
      linode,
      connect: cluster.own ? overTheLink : forwarded(kubeConfig),
      ...(cluster.own ? { host: cluster.network.host } : {}),
    });
    const close = async () => {
      await world.close();
      await clear();
    };
    return { address: world.address, close };
  } catch (error) {
    await clear();
    throw error;
  }
});

/** The provider of the cluster's volumes: on a cluster that was given, the one of the environment. */
function findLinode(cluster: TestCluster): { url: string; token: string } {
  if (cluster.own) return { url: cluster.linode.url, token: readFileSync(cluster.linode.tokenFile, 'utf8').trim() };
  const token = process.env['LINODE_TOKEN'];
  if (token === undefined)
    throw new ClusterProblem('LINODE_TOKEN is not set: whose volumes does the given cluster have?');
  return { url: process.env['LINODE_API_URL'] ?? 'https://api.linode.com', token };
}

/** Pods of this machine's own cluster have addresses that lead there. */
function overTheLink({ status }: V1Pod, port: number): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    const socket = connectTcp({ host: status?.podIP ?? '', port });
    socket.once('error', reject).once('connect', () => resolve(socket));
  });
}

function forwarded(kubeConfig: KubeConfig): Connect {
  const forward = new PortForward(kubeConfig);
  return async ({ metadata }, port) => {
    const [writable, readable, problems] = [new PassThrough(), new PassThrough(), new PassThrough()];
    const { namespace = '', name = '' } = metadata ?? {};
    await forward.portForward(namespace, name, [port], readable, problems, writable);
    return Duplex.from({ readable, writable });
  };
}

async function clearNamespaces({ core }: Access): Promise<void> {
  const labelSelector = Object.entries(EXAMPLE)
    .map(([key, value]) => `${key}=${value}`)
    .join(',');
  const listed = async () => (await core.listNamespace({ labelSelector })).items;
  for (const { metadata } of await listed()) await maybe(core.deleteNamespace({ name: metadata?.name ?? '' }));
  await eventually('the end of the last world’s namespaces', 180, async () =>
    (await listed()).length === 0 ? true : undefined,
  );
}

/** What the example would be applied over, and later removed with. */
async function refuseOthers({ core }: Access, names: string[]): Promise<void> {
  const { items } = await core.listNamespace();
  const others = items.flatMap(({ metadata }) => metadata?.name ?? '').filter((name) => names.includes(name));
  if (others.length === 0) return;
  throw new ClusterProblem(`The cluster has namespaces of these names that no example made: ${others.join(', ')}.`);
}

/** What the classes retain is a test's litter: through the provisioner where it made it, else at the provider. */
async function removeVolumes({ core }: Access, linode: { url: string; token: string }): Promise<void> {
  const litter = async () => {
    const namespaces = new Set((await core.listNamespace()).items.map(({ metadata }) => metadata?.name));
    const { items } = await core.listPersistentVolume();
    return items.filter(({ spec }) => spec?.claimRef !== undefined && !namespaces.has(spec.claimRef.namespace));
  };
  for (const { metadata } of await litter()) {
    const name = metadata?.name ?? '';
    const body = { spec: { persistentVolumeReclaimPolicy: 'Delete' } };
    await maybe(core.patchPersistentVolume({ name, body }, mergePatch));
    const provisioned = metadata?.annotations?.['pv.kubernetes.io/provisioned-by'] !== undefined;
    if (!provisioned) await maybe(core.deletePersistentVolume({ name }));
  }
  await eventually('the end of the world’s volumes', 120, async () =>
    (await litter()).length === 0 ? true : undefined,
  );

  const known = new Set(
    (await core.listPersistentVolume()).items.map(({ spec }) => Number.parseInt(spec?.csi?.volumeHandle ?? '', 10)),
  );
  const headers = { authorization: `Bearer ${linode.token}` };
  const page = await fetch(`${linode.url}/v4/volumes?page_size=500`, { headers });
  const { data } = (await page.json()) as { data: { id: number; linode_id: number | null }[] };
  for (const { id, linode_id } of data) {
    if (known.has(id) || linode_id !== null) continue;
    await fetch(`${linode.url}/v4/volumes/${id}`, { method: 'DELETE', headers });
  }
}
