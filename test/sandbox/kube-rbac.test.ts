/** Users other than the administrator: what roles give them, and in which words the API server refuses the rest. */
import { ApiException, AuthorizationV1Api, CoreV1Api, type KubeConfig } from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { asServiceAccount } from '../support/service-account.ts';
import { startWorld, type World } from './kube-parts.ts';

let world: World;
let user: KubeConfig;
let core: CoreV1Api;

const rbac = { apiVersion: 'rbac.authorization.k8s.io/v1' };
const apiGroup = 'rbac.authorization.k8s.io';
const subjects = [{ kind: 'ServiceAccount', namespace: 'default', name: 'robot' }];

beforeAll(async () => {
  world = await startWorld();
  world.cluster.apply([
    { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { namespace: 'default', name: 'robot' } },
    {
      ...rbac,
      kind: 'Role',
      metadata: { namespace: 'default', name: 'maps' },
      rules: [
        { apiGroups: [''], resources: ['configmaps'], verbs: ['get', 'create'] },
        { apiGroups: [''], resources: ['secrets'], resourceNames: ['mine'], verbs: ['get'] },
      ],
    },
    {
      ...rbac,
      kind: 'RoleBinding',
      metadata: { namespace: 'default', name: 'maps' },
      roleRef: { apiGroup, kind: 'Role', name: 'maps' },
      subjects,
    },
    {
      ...rbac,
      kind: 'ClusterRole',
      metadata: { name: 'nodes' },
      rules: [{ apiGroups: [''], resources: ['nodes', 'events'], verbs: ['list'] }],
    },
    {
      ...rbac,
      kind: 'ClusterRoleBinding',
      metadata: { name: 'nodes' },
      roleRef: { apiGroup, kind: 'ClusterRole', name: 'nodes' },
      subjects,
    },
  ] as Parameters<typeof world.cluster.apply>[0]);
  user = await asServiceAccount(world.config, 'default', 'robot');
  core = user.makeApiClient(CoreV1Api);
});

afterAll(() => world.close());

async function refused(call: Promise<unknown>): Promise<string> {
  const error: unknown = await call.then(
    () => new Error('was not refused'),
    (thrown: unknown) => thrown,
  );
  if (!(error instanceof ApiException)) throw error;
  expect(error.code).toBe(403);
  const status: { reason: string; message: string } = JSON.parse(String(error.body));
  expect(status.reason).toBe('Forbidden');
  return status.message;
}

const who = 'User "system:serviceaccount:default:robot"';

test('what a role gives is done, and nothing beside it', async () => {
  const at = { namespace: 'default', name: 'made' };
  await core.createNamespacedConfigMap({ namespace: 'default', body: { metadata: { name: 'made' } } });
  expect((await core.readNamespacedConfigMap(at)).metadata?.name).toBe('made');
  expect(await refused(core.deleteNamespacedConfigMap(at))).toBe(
    `configmaps "made" is forbidden: ${who} cannot delete resource "configmaps" in API group "" in the namespace "default"`,
  );
  expect(await refused(core.listNamespacedConfigMap({ namespace: 'default' }))).toBe(
    `configmaps is forbidden: ${who} cannot list resource "configmaps" in API group "" in the namespace "default"`,
  );
  await refused(core.readNamespacedConfigMap({ ...at, namespace: 'kube-system' }));
  // Before anybody looks whether it exists.
  await refused(core.readNamespacedSecret({ namespace: 'default', name: 'yours' }));
  await expect(core.readNamespacedSecret({ namespace: 'default', name: 'mine' })).rejects.toMatchObject({ code: 404 });
});

test('a cluster role reaches all namespaces, and a command in a pod is a right of its own', async () => {
  expect((await core.listNode()).items).toHaveLength(1);
  await core.listEventForAllNamespaces();
  await core.listNamespacedEvent({ namespace: 'kube-system' });
  expect(await refused(core.listPersistentVolume())).toBe(
    `persistentvolumes is forbidden: ${who} cannot list resource "persistentvolumes" in API group "" at the cluster scope`,
  );
  const exec = core.connectGetNamespacedPodExec({ namespace: 'default', name: 'any', command: 'true' });
  expect(await refused(exec)).toContain('cannot get resource "pods/exec"');
});

test('a review answers what the request would be answered', async () => {
  const reviews = user.makeApiClient(AuthorizationV1Api);
  const asked = async (resourceAttributes: object) =>
    (await reviews.createSelfSubjectAccessReview({ body: { spec: { resourceAttributes } } })).status?.allowed;
  const map = { namespace: 'default', resource: 'configmaps' };
  expect(await asked({ ...map, verb: 'get' })).toBe(true);
  expect(await asked({ ...map, verb: 'patch' })).toBe(false);
  expect(await asked({ ...map, verb: 'get', namespace: 'kube-system' })).toBe(false);
  expect(await asked({ ...map, resource: 'secrets', verb: 'get' })).toBe(false);
  expect(await asked({ ...map, resource: 'secrets', verb: 'get', name: 'mine' })).toBe(true);
  expect(await asked({ resource: 'pods', subresource: 'exec', verb: 'get', namespace: 'default' })).toBe(false);
});

test('an account that does not exist has no token', async () => {
  await expect(asServiceAccount(world.config, 'default', 'nobody')).rejects.toMatchObject({ code: 404 });
});
