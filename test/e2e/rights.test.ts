/** An upgrade by a worker that may do what the roles of deploy/ give, and nothing else: there, back, and there again. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CoreV1Api, KubernetesObjectApi, RbacAuthorizationV1Api, type KubeConfig } from '@kubernetes/client-node';
import { expect, onTestFinished, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, upgradeResult } from '../../src/client/upgrades.ts';
import { eventually, maybe } from '../../src/sandbox/world/access.ts';
import { rolesFor } from '../support/deploy.ts';
import { asServiceAccount } from '../support/service-account.ts';
import { answer, raiseStage, start } from './stage.ts';
import { expectUpgraded, oldWorld, sceneOf, upgradeAll } from './world.ts';

test('15 to 18, rolled back and then upgraded, under the roles of deploy/', { timeout: 900_000 }, async () => {
  const on = await raiseStage(15, 5);
  const { input, spec } = await readSpecFile(on.sandbox.upgradeSpec);
  const admin = on.access.kubeConfig;
  const api = KubernetesObjectApi.makeApiClient(admin);
  const namespaces = [...new Set(spec.services.map(({ namespace }) => namespace))];
  for (const object of await rolesFor(spec.database.namespace, namespaces)) {
    await api.create(object);
    // The rest goes with its namespace.
    if (/^(ClusterRole|Namespace)/.test(object.kind))
      onTestFinished(async () => void (await maybe(api.delete(object))));
  }
  const user = await asServiceAccount(admin, 'pgleap', 'pgleap');
  const kubeconfig = join(on.artifacts, '..', 'kubeconfig');
  await writeFile(kubeconfig, user.exportConfig(), { mode: 0o600 });
  await on.startWorker({ KUBECONFIG: kubeconfig });

  /** The API server takes a role's change in when it hears of it, a moment later. */
  const planned = (access: 'FAILED' | 'PASSED') =>
    eventually(`kube.access ${access}`, 60, async () => {
      const plan = await planUpgrade(on.session, input);
      return plan.checks.some(({ id, status }) => id === 'kube.access' && status === access) ? plan : undefined;
    });
  await setVerbs(admin, ['get']);
  const lacking = await planned('FAILED');
  expect(lacking.checks.filter(({ status }) => status === 'FAILED')).toMatchObject([
    {
      id: 'kube.access',
      message:
        'The worker’s user (system:serviceaccount:pgleap:pgleap) may not, in namespace web: patch deployments.apps.',
      remedy: expect.stringContaining('kubectl -n web create role pgleap-may-deployments --verb=patch'),
    },
  ]);
  await setVerbs(admin, ['get', 'patch']);
  const plan = await planned('PASSED');
  expect(plan.checks.filter(({ status }) => status === 'FAILED')).toEqual([]);
  const scene = sceneOf(on, plan);
  const before = await oldWorld(scene);
  const rejected = await start(on);
  for (const gate of ['begin', 'replace'] as const) await answer(on, rejected, gate);
  await answer(on, rejected, 'reopen', 'reject');
  expect(await upgradeResult(on.session, rejected)).toMatchObject({ outcome: 'rolled-back', servicesRestored: true });
  expect(await oldWorld(scene)).toEqual(before);

  const again = await start(on);
  const second = await upgradeAll(on, again);
  await expectUpgraded(on, again, second.before, second.scene);

  // It was that user, and it may not do what nobody gave it.
  const core = user.makeApiClient(CoreV1Api);
  // Each is asked when it is awaited: four at once would leave three refusals unheard while the first is read.
  for (const beyond of [
    () => core.listSecretForAllNamespaces(),
    () => core.deleteNamespacedConfigMap({ namespace: 'databases', name: 'any' }),
    () => core.deleteNamespacedPod({ namespace: 'web', name: 'any' }),
    () => core.deleteNamespacedPersistentVolumeClaim({ namespace: 'web', name: 'any' }),
  ]) {
    await expect(beyond()).rejects.toMatchObject({ code: 403 });
  }
});

/** Of Deployments in one of the services' namespaces. */
async function setVerbs(admin: KubeConfig, verbs: string[]): Promise<void> {
  const rbac = admin.makeApiClient(RbacAuthorizationV1Api);
  const at = { namespace: 'web', name: 'pgleap-services' };
  const body = await rbac.readNamespacedRole(at);
  const rule = body.rules?.find(({ resources }) => resources?.includes('deployments'));
  if (rule === undefined) throw new Error('no rule for Deployments');
  rule.verbs = verbs;
  await rbac.replaceNamespacedRole({ ...at, body });
}
