import { readFile, stat } from 'node:fs/promises';
import {
  ApiException,
  ApiextensionsV1Api,
  AppsV1Api,
  CoordinationV1Api,
  CoreV1Api,
  CustomObjectsApi,
  KubeConfig,
  KubernetesObjectApi,
  PatchStrategy,
  setHeaderOptions,
  VersionApi,
  Watch,
  type V1ConfigMap,
  type V1CustomResourceDefinitionVersion,
} from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { deploymentOf, eventually, startWorld, type World } from './kube-parts.ts';

let world: World;
let core: CoreV1Api;
let apps: AppsV1Api;

beforeAll(async () => {
  world = await startWorld();
  core = world.config.makeApiClient(CoreV1Api);
  apps = world.config.makeApiClient(AppsV1Api);
});

afterAll(async () => {
  await world.close();
  expect(world.problems).toEqual([]);
});

interface Refusal {
  code: number;
  reason: string;
  message: string;
}

/** What the server refused with. Fails when it did not. */
async function refusal(call: Promise<unknown>): Promise<Refusal> {
  try {
    await call;
  } catch (error) {
    if (!(error instanceof ApiException)) throw error;
    // The client library knows 401 by itself and drops its body.
    if (error.code === 401) return { code: 401, reason: 'Unauthorized', message: '' };
    const status: Refusal & { kind: string } = JSON.parse(String(error.body));
    expect(status).toMatchObject({ kind: 'Status', code: error.code, status: 'Failure' });
    return status;
  }
  throw new Error('was not refused');
}

const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

function configMap(name: string, data: Record<string, string>): V1ConfigMap {
  return { metadata: { name }, data };
}

test('only the owner can read the kubeconfig, and only its token opens the API', async () => {
  expect((await stat(world.cluster.kubeconfigPath)).mode & 0o777).toBe(0o600);
  const text = await readFile(world.cluster.kubeconfigPath, 'utf8');
  const wrong = new KubeConfig();
  wrong.loadFromString(text.replace(/token: \w+/, 'token: wrong'));
  expect(await refusal(wrong.makeApiClient(CoreV1Api).listNamespace())).toMatchObject({ code: 401 });
  expect((await world.config.makeApiClient(VersionApi).getCode()).gitVersion).toMatch(/^v1\.\d+/);
  const system = await core.readNamespace({ name: 'kube-system' });
  expect(system.metadata?.uid).toMatch(/^[0-9a-f-]{36}$/);
  const nodes = await core.listNode();
  expect(nodes.items[0]?.spec?.providerID).toMatch(/^linode:\/\/\d+$/);
});

test('objects are made, read, replaced, patched in four ways and deleted', async () => {
  const namespace = 'default';
  const made = await core.createNamespacedConfigMap({ namespace, body: configMap('crud', { a: '1' }) });
  expect(made.metadata).toMatchObject({ name: 'crud', namespace });
  const again = core.createNamespacedConfigMap({ namespace, body: configMap('crud', {}) });
  expect(await refusal(again)).toMatchObject({ code: 409, reason: 'AlreadyExists' });

  const replaced = await core.replaceNamespacedConfigMap({
    name: 'crud',
    namespace,
    body: { metadata: made.metadata ?? {}, data: { b: '2' } },
  });
  expect(replaced.data).toEqual({ b: '2' });
  expect(Number(replaced.metadata?.resourceVersion)).toBeGreaterThan(Number(made.metadata?.resourceVersion));
  const stale = core.replaceNamespacedConfigMap({
    name: 'crud',
    namespace,
    body: { metadata: made.metadata ?? {}, data: {} },
  });
  expect(await refusal(stale)).toMatchObject({ code: 409, reason: 'Conflict' });

  await core.patchNamespacedConfigMap({ name: 'crud', namespace, body: { data: { c: '3', b: null } } }, merge);
  const json = [
    { op: 'test', path: '/data/c', value: '3' },
    { op: 'add', path: '/data/d', value: '4' },
  ];
  const patched = await core.patchNamespacedConfigMap({ name: 'crud', namespace, body: json });
  expect(patched.data).toEqual({ c: '3', d: '4' });
  const failing = [{ op: 'test', path: '/data/c', value: 'other' }];
  expect(await refusal(core.patchNamespacedConfigMap({ name: 'crud', namespace, body: failing }))).toMatchObject({
    code: 422,
  });
  const unknown = setHeaderOptions('Content-Type', 'text/plain');
  const odd = core.patchNamespacedConfigMap({ name: 'crud', namespace, body: {} }, unknown);
  expect(await refusal(odd)).toMatchObject({ code: 415 });

  await core.deleteNamespacedConfigMap({ name: 'crud', namespace });
  expect(await refusal(core.readNamespacedConfigMap({ name: 'crud', namespace }))).toMatchObject({
    code: 404,
    reason: 'NotFound',
    message: 'configmaps "crud" not found',
  });
});

test('server-side apply creates, merges beside others, and removes what it applied before and leaves out', async () => {
  const api = KubernetesObjectApi.makeApiClient(world.config);
  const metadata = { name: 'applied', namespace: 'default' };
  const apply = (data: Record<string, string>) =>
    api.patch(
      { apiVersion: 'v1', kind: 'ConfigMap', metadata, data },
      undefined,
      undefined,
      'pgleap',
      true,
      PatchStrategy.ServerSideApply,
    );
  await apply({ mine: '1', other: '1' });
  await core.patchNamespacedConfigMap(
    { name: 'applied', namespace: 'default', body: { data: { theirs: '1' } } },
    merge,
  );
  await apply({ mine: '2' });
  const found = await core.readNamespacedConfigMap({ name: 'applied', namespace: 'default' });
  expect(found.data).toEqual({ mine: '2', theirs: '1' });
  expect(found.metadata?.managedFields?.map((one) => one.manager)).toContain('pgleap');
});

test('bad requests are refused with the field that is wrong, and dry runs change nothing', async () => {
  const namespace = 'default';
  const badName = core.createNamespacedConfigMap({ namespace, body: configMap('Bad_Name', {}) });
  expect(await refusal(badName)).toMatchObject({ code: 422, reason: 'Invalid' });
  const nowhere = core.createNamespacedConfigMap({ namespace: 'nowhere', body: configMap('a', {}) });
  expect(await refusal(nowhere)).toMatchObject({ code: 404, message: 'namespaces "nowhere" not found' });
  const empty = apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'empty' } } });
  const { code, message } = await refusal(empty);
  expect(code).toBe(422);
  expect(message).toContain('spec.selector');
  const mismatch = deploymentOf('mismatch', {});
  mismatch.spec.selector = { matchLabels: { app: 'other' } };
  expect((await refusal(apps.createNamespacedDeployment({ namespace, body: mismatch }))).message).toContain('labels');

  await core.createNamespacedConfigMap({ namespace, body: configMap('dry', {}), dryRun: 'All' });
  expect(await refusal(core.readNamespacedConfigMap({ name: 'dry', namespace }))).toMatchObject({ code: 404 });
  const generated = await core.createNamespacedConfigMap({ namespace, body: { metadata: { generateName: 'gen-' } } });
  expect(generated.metadata?.name).toMatch(/^gen-[a-z0-9]{5}$/);
});

test('lists select by labels in both notations and by fields, and page', async () => {
  const namespace = 'default';
  for (const [name, tier] of [
    ['sel-a', 'front'],
    ['sel-b', 'back'],
    ['sel-c', ''],
  ] as const) {
    const labels = { group: 'sel', ...(tier === '' ? {} : { tier }) };
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name, labels } } });
  }
  const names = async (labelSelector: string) =>
    (await core.listNamespacedConfigMap({ namespace, labelSelector })).items.map((item) => item.metadata?.name);
  expect(await names('group=sel,tier=front')).toEqual(['sel-a']);
  expect(await names('group=sel,tier!=front')).toEqual(['sel-b', 'sel-c']);
  expect(await names('group=sel,tier in (front, back)')).toEqual(['sel-a', 'sel-b']);
  expect(await names('group=sel,tier notin (front)')).toEqual(['sel-b', 'sel-c']);
  expect(await names('group=sel,!tier')).toEqual(['sel-c']);
  expect(await names('group=sel,tier')).toEqual(['sel-a', 'sel-b']);
  const byName = await core.listNamespacedConfigMap({ namespace, fieldSelector: 'metadata.name=sel-b' });
  expect(byName.items).toHaveLength(1);
  const first = await core.listNamespacedConfigMap({ namespace, labelSelector: 'group=sel', limit: 2 });
  expect(first.items).toHaveLength(2);
  const { _continue: next = '' } = first.metadata ?? {};
  const query = { namespace, labelSelector: 'group=sel', limit: 2, _continue: next };
  const rest = await core.listNamespacedConfigMap(query);
  expect(rest.items.map((item) => item.metadata?.name)).toEqual(['sel-c']);
});

test('deletion keeps to preconditions and waits for finalizers', async () => {
  const namespace = 'default';
  const body = { metadata: { name: 'held', finalizers: ['example.com/hold'] } };
  const made = await core.createNamespacedConfigMap({ namespace, body });
  const uid = made.metadata?.uid ?? '';
  const wrong = core.deleteNamespacedConfigMap({ name: 'held', namespace, body: { preconditions: { uid: 'other' } } });
  expect(await refusal(wrong)).toMatchObject({ code: 409, reason: 'Conflict' });
  const stale = { preconditions: { uid, resourceVersion: '1' } };
  expect(await refusal(core.deleteNamespacedConfigMap({ name: 'held', namespace, body: stale }))).toMatchObject({
    code: 409,
  });
  await core.deleteNamespacedConfigMap({ name: 'held', namespace, body: { preconditions: { uid } } });
  const held = await core.readNamespacedConfigMap({ name: 'held', namespace });
  expect(held.metadata?.deletionTimestamp).toBeInstanceOf(Date);
  const more = { metadata: { finalizers: ['example.com/hold', 'example.com/more'] } };
  const added = core.patchNamespacedConfigMap({ name: 'held', namespace, body: more }, merge);
  expect(await refusal(added)).toMatchObject({ code: 422 });
  await core.patchNamespacedConfigMap({ name: 'held', namespace, body: { metadata: { finalizers: [] } } }, merge);
  expect(await refusal(core.readNamespacedConfigMap({ name: 'held', namespace }))).toMatchObject({ code: 404 });
});

test('a lease is a lock: an update needs the version it read', async () => {
  const leases = world.config.makeApiClient(CoordinationV1Api);
  const namespace = 'default';
  const made = await leases.createNamespacedLease({
    namespace,
    body: { metadata: { name: 'lock' }, spec: { holderIdentity: 'one' } },
  });
  const taken = await leases.replaceNamespacedLease({
    name: 'lock',
    namespace,
    body: { metadata: made.metadata ?? {}, spec: { holderIdentity: 'two' } },
  });
  const late = leases.replaceNamespacedLease({
    name: 'lock',
    namespace,
    body: { metadata: made.metadata ?? {}, spec: { holderIdentity: 'x' } },
  });
  expect(await refusal(late)).toMatchObject({ code: 409 });
  const { resourceVersion: _gone, ...metadata } = taken.metadata ?? {};
  const blind = leases.replaceNamespacedLease({
    name: 'lock',
    namespace,
    body: { metadata, spec: { holderIdentity: 'x' } },
  });
  expect(await refusal(blind)).toMatchObject({ code: 422 });
});

test('a watch shows what happens from a version on', async () => {
  const namespace = 'default';
  const { metadata } = await core.listNamespacedConfigMap({ namespace });
  await core.createNamespacedConfigMap({ namespace, body: configMap('seen', {}) });
  const seen: string[] = [];
  const path = `/api/v1/namespaces/${namespace}/configmaps`;
  const query = { resourceVersion: metadata?.resourceVersion, fieldSelector: 'metadata.name=seen' };
  const abort = await new Watch(world.config).watch(
    path,
    query,
    (type) => seen.push(type),
    () => {},
  );
  await core.patchNamespacedConfigMap({ name: 'seen', namespace, body: { data: { a: '1' } } }, merge);
  await core.deleteNamespacedConfigMap({ name: 'seen', namespace });
  await eventually(async () => seen.length >= 3, 'three changes');
  abort.abort();
  expect(seen).toEqual(['ADDED', 'MODIFIED', 'DELETED']);
});

test('a CustomResourceDefinition brings a resource of its own', async () => {
  const api = KubernetesObjectApi.makeApiClient(world.config);
  const custom = world.config.makeApiClient(CustomObjectsApi);
  const [group, version, plural] = ['keda.sh', 'v1alpha1', 'scaledobjects'];
  const where = { group, version, plural, namespace: 'default' };
  await expect(custom.listNamespacedCustomObject(where)).rejects.toMatchObject({
    code: 404,
    body: expect.stringContaining('404 page not found'),
  });
  const names = { plural, singular: 'scaledobject', kind: 'ScaledObject' };
  const define = (one: object) =>
    world.config.makeApiClient(ApiextensionsV1Api).createCustomResourceDefinition({
      body: {
        metadata: { name: `${plural}.${group}` },
        spec: { group, names, scope: 'Namespaced', versions: [one as V1CustomResourceDefinitionVersion] },
      },
    });
  const served = { name: version, served: true, storage: true };
  expect(await refusal(define(served))).toMatchObject({
    code: 422,
    message: expect.stringContaining('spec.versions[0].schema.openAPIV3Schema: Required value'),
  });
  const scaleTargetRef = { type: 'object', properties: { name: { type: 'string' } } };
  const triggers = { type: 'array', items: { type: 'object', properties: { type: { type: 'string' } } } };
  const advanced = { type: 'object', x_kubernetes_preserve_unknown_fields: true };
  const properties = { spec: { type: 'object', properties: { scaleTargetRef, triggers, advanced } } };
  await define({ ...served, schema: { openAPIV3Schema: { type: 'object', properties } } });
  const spec = { scaleTargetRef: { name: 'site' }, triggers: [{ type: 'cron' }], advanced: { any: { thing: 1 } } };
  await api.create({
    apiVersion: `${group}/${version}`,
    kind: 'ScaledObject',
    metadata: { name: 'site', labels: { app: 'site' } },
    spec: { ...spec, triggers: [{ type: 'cron', metadata: { start: '0 6 * * *' } }] },
  } as never);
  // What the schema does not name is taken off, when it is made and when it is changed.
  const body = { spec: { paused: true, scaleTargetRef: { kind: 'Deployment' } } };
  await custom.patchNamespacedCustomObject({ ...where, name: 'site', body }, merge);
  const listed = (await custom.listNamespacedCustomObject(where)) as { items: { metadata: object; spec: object }[] };
  expect(listed.items).toMatchObject([{ metadata: { labels: { app: 'site' } } }]);
  expect(listed.items[0]?.spec).toEqual(spec);
});

test('a namespace goes with all that is in it', async () => {
  await core.createNamespace({ body: { metadata: { name: 'going' } } });
  await apps.createNamespacedDeployment({ namespace: 'going', body: deploymentOf('app', {}) });
  await eventually(async () => (await core.listNamespacedPod({ namespace: 'going' })).items.length === 1, 'a pod');
  await core.deleteNamespace({ name: 'going' });
  await eventually(async () => {
    const { code } = await refusal(core.readNamespace({ name: 'going' })).catch(() => ({ code: 200 }));
    return code === 404;
  }, 'the end of the namespace');
  expect((await core.listPodForAllNamespaces()).items.filter((pod) => pod.metadata?.namespace === 'going')).toEqual([]);
});
