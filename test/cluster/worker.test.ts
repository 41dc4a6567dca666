/** The worker as deploy/ runs it: the image in a pod, with the rights of its ServiceAccount and no others. */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createReadStream } from 'node:fs';
import { chmod, mkdir, mkdtemp, rm, stat, writeFile } from 'node:fs/promises';
import { connect as connectTcp, createServer, type AddressInfo, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import {
  AuthorizationV1Api,
  CoreV1Api,
  KubeConfig,
  KubernetesObjectApi,
  type KubernetesObject,
} from '@kubernetes/client-node';
import { expect, onTestFinished, test } from 'vitest';
import { runInPod } from '../../src/activities/kubernetes/exec.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, upgradeStatus } from '../../src/client/upgrades.ts';
import { apply, eventually, maybe, podOf, readyPods } from '../../src/sandbox/world/access.ts';
import { raiseStage, start, type Stage } from '../e2e/stage.ts';
import { expectUpgraded, upgradeAll } from '../e2e/world.ts';
import { kustomize, rolesFor } from '../support/deploy.ts';
import { buildImage } from '../support/image.ts';
import { makeRoots } from './images.ts';
import { importImage, packFolder } from './oci.ts';
import { openCluster } from './open.ts';

const own = openCluster().own;

test.runIf(own)(
  'a worker in a pod upgrades, and may do no more than its roles say',
  { timeout: 1_200_000 },
  async () => {
    await importWorker();
    const on = await raiseStage(15, 5);
    const { input, spec } = await readSpecFile(on.sandbox.upgradeSpec);
    await deploy(on, spec.database.namespace, [...new Set(spec.services.map(({ namespace }) => namespace))]);
    const worker = await eventually('the worker’s pod', 300, async () => {
      const [ready] = await readyPods(on.access, 'pgleap', 'pgleap');
      return ready === undefined ? undefined : podOf(on.access, 'pgleap', 'pgleap');
    });
    const inWorker = (...argv: string[]) => runInPod(on.access.kubeConfig, worker, argv);

    const plan = await planUpgrade(on.session, input);
    expect(plan.checks.filter(({ status }) => status === 'FAILED')).toEqual([]);
    expect(plan.checks.find(({ id }) => id === 'kube.access')).toMatchObject({ status: 'PASSED' });

    const workflowId = await start(on);
    const { before, scene } = await upgradeAll(on, workflowId);
    const { upgradeId } = await upgradeStatus(on.session, workflowId);
    await eventually('the end of the upgrade', 300, async () => {
      const { stage } = await upgradeStatus(on.session, workflowId);
      return stage === 'ended' ? true : undefined;
    });
    const artifacts = path.join(on.artifacts, upgradeId);
    await mkdir(artifacts, { recursive: true });
    for (const name of ['fingerprint-source.txt', 'fingerprint-target.txt']) {
      await writeFile(path.join(artifacts, name), await inWorker('cat', `/artifacts/pgleap/${upgradeId}/${name}`));
    }
    await expectUpgraded(on, workflowId, before, scene);
    expect(await inWorker('id', '-u')).toBe('10001\n');

    // The very token that did it, beyond its roles.
    const token = await inWorker('cat', '/var/run/secrets/kubernetes.io/serviceaccount/token');
    const user = asToken(on.access.kubeConfig, token);
    const mayDeletePods = async (namespace: string) => {
      const resourceAttributes = { namespace, verb: 'delete', resource: 'pods' };
      const body = { spec: { resourceAttributes } };
      return (await user.makeApiClient(AuthorizationV1Api).createSelfSubjectAccessReview({ body })).status?.allowed;
    };
    expect([await mayDeletePods('databases'), await mayDeletePods('web')]).toEqual([true, false]);
    const core = user.makeApiClient(CoreV1Api);
    const [site] = await readyPods(on.access, 'web', 'site');
    for (const beyond of [
      () => core.deleteNamespacedPod({ namespace: 'web', name: site?.metadata?.name ?? '' }),
      () => core.listSecretForAllNamespaces(),
      () => core.deleteNamespace({ name: 'web' }),
    ]) {
      await expect(beyond()).rejects.toMatchObject({ code: 403 });
    }
  },
);

/** Builds what the Dockerfile says and gives it to the cluster as `pgleap:test`. */
async function importWorker(): Promise<void> {
  const folder = await mkdtemp(path.join(tmpdir(), 'pgleap-worker-'));
  try {
    await chmod(folder, 0o755);
    const image = await buildImage(path.join(folder, 'image'));
    const file = path.join(folder, 'layer.tar');
    await packFolder(image.root, file);
    const hash = createHash('sha256');
    await pipeline(createReadStream(file), hash);
    const layer = { file, sha256: hash.digest('hex'), size: (await stat(file)).size };
    expect(image.base).toBe('debian:bookworm-slim');
    // A bookworm that the cluster has already.
    const bookworm = (await makeRoots())[15];
    await importImage({ name: 'docker.io/library/pgleap:test', layers: [bookworm, layer], config: image.config });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** Applies the example of deploy/ with this world's addresses, tokens and namespaces. */
async function deploy(on: Stage, database: string, namespaces: string[]): Promise<void> {
  const { linode, cloudflare } = on.sandbox;
  const example = (await kustomize('deploy/example')).filter(({ metadata }) => metadata.namespace === 'pgleap');
  const text = JSON.stringify(example.filter(({ kind }) => !['ServiceAccount', 'ConfigMap'].includes(kind)));
  const inPgleap = (kind: string, name: string) => ({
    apiVersion: 'v1',
    kind,
    metadata: { namespace: 'pgleap', name },
  });
  const addresses = {
    TEMPORAL_ADDRESS: await reachable(on.session.address, new URL(cloudflare.url).hostname),
    LINODE_API_URL: linode.url,
    CLOUDFLARE_API_URL: cloudflare.url,
  };
  const tokens = { LINODE_TOKEN: linode.token, CLOUDFLARE_API_TOKEN: cloudflare.token };
  const objects: KubernetesObject[] = [
    ...(await rolesFor(database, namespaces)),
    Object.assign(inPgleap('ConfigMap', 'pgleap'), { data: addresses }),
    Object.assign(inPgleap('Secret', 'pgleap-tokens'), { stringData: tokens }),
    ...JSON.parse(text.replaceAll('registry.example.com/pgleap:0.1.0', 'pgleap:test')),
  ];
  const api = KubernetesObjectApi.makeApiClient(on.access.kubeConfig);
  onTestFinished(async () => {
    for (const object of objects.filter(({ kind }) => /^(ClusterRole|Namespace)/.test(kind ?? ''))) {
      await maybe(api.delete(object));
    }
    await eventually('the end of the worker’s namespace', 120, async () =>
      (await maybe(on.access.core.readNamespace({ name: 'pgleap' }))) === undefined ? true : undefined,
    );
  }, 180_000);
  await apply(on.access, objects);
}

/** An address of this machine that pods reach, for a server that listens on the loopback one. */
async function reachable(address: string, host: string): Promise<string> {
  const [to = '', at = ''] = address.split(':');
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    const further = connectTcp({ host: to, port: Number(at) });
    for (const [one, other] of [
      [socket, further],
      [further, socket],
    ] as const) {
      sockets.add(one);
      one
        .on('error', () => other.destroy())
        .once('close', () => sockets.delete(one))
        .pipe(other);
    }
  }).listen(0, host);
  await once(server, 'listening');
  onTestFinished(() => {
    server.close();
    for (const socket of sockets) socket.destroy();
  });
  const { port } = server.address() as AddressInfo;
  return `${host}:${port}`;
}

function asToken(admin: KubeConfig, token: string): KubeConfig {
  const config = new KubeConfig();
  const cluster = admin.getCurrentCluster();
  if (cluster === null) throw new Error('no cluster');
  config.loadFromClusterAndUser(cluster, { name: 'worker', token });
  return config;
}
