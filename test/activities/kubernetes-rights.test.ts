/** Preflight's questions about rights, to an API server that knows roles and bindings, by the ServiceAccount of deploy/. */
import { RbacAuthorizationV1Api, type KubernetesObject } from '@kubernetes/client-node';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { accessChecks } from '../../src/activities/kubernetes/access.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { inspectCluster } from '../../src/activities/kubernetes/inspect.ts';
import { rightsFor, rightText, type Right } from '../../src/domain/rights.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { startWorld, type World } from '../sandbox/kube-parts.ts';
import { rolesFor } from '../support/deploy.ts';
import { asServiceAccount } from '../support/service-account.ts';

const services = [
  'web/site',
  'web/statefulset/queue',
  'bots/cronjob/backup',
  { namespace: 'monitoring', name: 'grafana', readOnly: true },
];
const specs = (['Deployment', 'StatefulSet'] as const).map((kind) =>
  specSchema.parse({ database: { namespace: 'databases', kind }, target: { image: 'postgres:18' }, services }),
);
const account = 'system:serviceaccount:pgleap:pgleap';

let world: World;
let rbac: RbacAuthorizationV1Api;
let kube: Kube;

beforeAll(async () => {
  world = await startWorld();
  // Each right by one role only, so that taking it out of that role takes it away.
  const roles = (await rolesFor('databases', ['web', 'bots', 'monitoring'])).filter(
    ({ metadata }) => metadata?.name !== 'pgleap-survey',
  );
  const namespaces = ['databases', 'web', 'bots', 'monitoring'].map((name) => ({
    apiVersion: 'v1',
    kind: 'Namespace',
    metadata: { name },
  }));
  world.cluster.apply([...namespaces, ...roles]);
  rbac = world.config.makeApiClient(RbacAuthorizationV1Api);
  kube = createKube(await asServiceAccount(world.config, 'pgleap', 'pgleap'));
});

afterAll(() => world.close());

test.each(specs)('the roles of deploy/ are all that an upgrade of a $database.kind needs', async (spec) => {
  expect(await accessChecks(kube, rightsFor(spec))).toMatchObject([{ id: 'kube.access', status: 'PASSED' }]);
});

/** Sets the verbs of the rule for this right, and gives what they were. */
async function setVerbs({ role, namespace, group, resource }: Right, edit: (verbs: string[]) => string[]) {
  const name = `pgleap-${role}`;
  const body =
    namespace === undefined ? await rbac.readClusterRole({ name }) : await rbac.readNamespacedRole({ name, namespace });
  const rule = body.rules?.find(
    ({ apiGroups, resources }) => apiGroups?.includes(group) && resources?.includes(resource),
  );
  if (rule === undefined) throw new Error(`${name} has no rule for ${resource}`);
  const before = rule.verbs;
  rule.verbs = edit(before);
  await (namespace === undefined
    ? rbac.replaceClusterRole({ name, body })
    : rbac.replaceNamespacedRole({ name, namespace, body }));
  return before;
}

/** What two kubectl commands make, read from their arguments. */
function made(commands: string): KubernetesObject[] {
  return commands.split(' && ').map((command) => {
    const [, namespace, kind = '', name = ''] =
      /^kubectl (?:-n (\S+) )?create (cluster)?(role|rolebinding) (\S+) /.exec(command)?.filter((_, at) => at !== 2) ??
      [];
    const option = (wanted: string) => new RegExp(` --${wanted}=(\\S+)`).exec(command)?.[1];
    const cluster = command.includes('create cluster');
    const metadata = { name, ...(namespace === undefined ? {} : { namespace }) };
    const apiVersion = 'rbac.authorization.k8s.io/v1';
    if (kind === 'role') {
      const [whole = '', sub] = option('resource')?.split('/') ?? [];
      const [resource = '', ...group] = whole.split('.');
      const only = option('resource-name');
      const rule = {
        apiGroups: [group.join('.')],
        resources: [sub === undefined ? resource : `${resource}/${sub}`],
        verbs: option('verb')?.split(','),
        ...(only === undefined ? {} : { resourceNames: [only] }),
      };
      return { apiVersion, kind: cluster ? 'ClusterRole' : 'Role', metadata, rules: [rule] };
    }
    const [of = '', who = ''] = option('serviceaccount')?.split(':') ?? [];
    return {
      apiVersion,
      kind: cluster ? 'ClusterRoleBinding' : 'RoleBinding',
      metadata,
      roleRef: {
        apiGroup: 'rbac.authorization.k8s.io',
        kind: cluster ? 'ClusterRole' : 'Role',
        name: option(cluster ? 'clusterrole' : 'role'),
      },
      subjects: [{ kind: 'ServiceAccount', namespace: of, name: who }],
    };
  });
}

async function unmake(objects: KubernetesObject[]): Promise<void> {
  for (const { kind, metadata: { name = '', namespace = '' } = {} } of objects) {
    if (kind === 'Role') await rbac.deleteNamespacedRole({ name, namespace });
    if (kind === 'RoleBinding') await rbac.deleteNamespacedRoleBinding({ name, namespace });
    if (kind === 'ClusterRole') await rbac.deleteClusterRole({ name });
    if (kind === 'ClusterRoleBinding') await rbac.deleteClusterRoleBinding({ name });
  }
}

const missing = new Map(
  specs.flatMap((spec) =>
    rightsFor(spec).map((right) => [`${rightText(right)} ${right.namespace ?? 'anywhere'}`, { spec, right }]),
  ),
);

test.each([...missing])('without %s preflight names it, and the command that mends it', async (_, { spec, right }) => {
  const before = await setVerbs(right, (verbs) => verbs.filter((verb) => verb !== right.verb));
  try {
    const checks = await accessChecks(kube, rightsFor(spec));
    const where = right.namespace === undefined ? 'in the cluster' : `in namespace ${right.namespace}`;
    expect(checks).toMatchObject([
      { status: 'FAILED', message: `The worker’s user (${account}) may not, ${where}: ${rightText(right)}.` },
    ]);
    const objects = made(checks[0]?.remedy ?? '');
    world.cluster.apply(objects);
    expect(await accessChecks(kube, rightsFor(spec))).toMatchObject([{ status: 'PASSED' }]);
    await unmake(objects);
  } finally {
    await setVerbs(right, () => before);
  }
});

test('a namespace without its role is one check with the role’s name', async () => {
  const [spec] = specs;
  if (spec === undefined) throw new Error('no spec');
  await rbac.deleteNamespacedRoleBinding({ namespace: 'web', name: 'pgleap-services' });
  await rbac.deleteClusterRoleBinding({ name: 'pgleap-cluster' });
  expect(await accessChecks(kube, rightsFor(spec))).toMatchObject([
    { message: expect.stringContaining('in the cluster: get namespaces kube-system; get persistentvolumes;') },
    {
      message: expect.stringContaining('in namespace web: get deployments.apps; patch deployments.apps;'),
      remedy: 'Bind pgleap-services of docs/rbac.md there, as deploy/ does.',
    },
  ]);
  // What cannot be read then ends the inspection, with the same checks and no error.
  const { facts, checks } = await inspectCluster(kube, spec);
  expect(facts).toBeNull();
  expect(checks.map(({ id, status }) => `${id} ${status}`)).toEqual(['kube.access FAILED', 'kube.access FAILED']);
});
