/** Whole upgrades of services that something else starts, scales or holds, with the controllers of a real cluster. */
import { AutoscalingV2Api, PatchStrategy, setHeaderOptions } from '@kubernetes/client-node';
import { expect, onTestFinished, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, sendMessage, upgradeStatus } from '../../src/client/upgrades.ts';
import { takeSnapshot } from '../../src/sandbox/demo/snapshot.ts';
import { apply, eventually, maybe, waitForWorkload } from '../../src/sandbox/world/access.ts';
import { EXAMPLE } from '../../src/sandbox/world/world.ts';
import { answer, follow, raiseStage, reachGate, start, type Stage } from '../e2e/stage.ts';
import { expectUpgraded, sceneOf } from '../e2e/world.ts';
import { customObjects, defineKinds, removeKinds, startReconciler } from '../support/reconcilers.ts';

const mergePatch = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);
const flux = { namespace: 'gitops', name: 'apps' };
const argo = { namespace: 'gitops', name: 'shop' };

test(
  'an autoscaler, Argo CD and Flux: paused, or named; and a pod that does not end',
  { timeout: 900_000 },
  async () => {
    // Not 17: in Debian it gets its minors long before 18 does.
    const on = await raiseStage(15, 5, { topology: 'config-map' });
    const { kubeConfig, core, apps } = on.access;
    onTestFinished(() => removeKinds(kubeConfig));
    await defineKinds(kubeConfig);
    const custom = customObjects(kubeConfig);
    await apply(on.access, [
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'gitops', labels: EXAMPLE } },
      { apiVersion: 'v1', kind: 'ConfigMap', metadata: { namespace: 'mail', name: 'mailer' } },
    ]);
    const patch = async (namespace: string, name: string, body: object) =>
      void (await apps.patchNamespacedDeployment({ namespace, name, body }, mergePatch));
    await on.startWorker();

    // Named, when pgleap cannot pause it.
    const group = 'kustomize.toolkit.fluxcd.io';
    const labels = { [`${group}/name`]: flux.name, [`${group}/namespace`]: flux.namespace };
    await patch('bots', 'metricity', { metadata: { labels } });
    const owner = await core.readNamespacedConfigMap({ namespace: 'mail', name: 'mailer' });
    const ownerReferences = [{ apiVersion: 'v1', kind: 'ConfigMap', name: 'mailer', uid: owner.metadata?.uid }];
    await patch('mail', 'digest', { metadata: { ownerReferences } });
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const failed = (await planUpgrade(on.session, input)).checks.filter(({ status }) => status === 'FAILED');
    expect(Object.fromEntries(failed.map(({ id, message }) => [id, message]))).toEqual({
      'kube.flux': expect.stringContaining('Deployment bots/metricity is kept by Flux’s Kustomization gitops/apps'),
      'kube.owner': expect.stringContaining('Deployment mail/digest belongs to ConfigMap mailer'),
    });
    await patch('mail', 'digest', { metadata: { ownerReferences: null } });

    // Paused, when it can; each was seen to act before.
    const tracking = { 'argocd.argoproj.io/tracking-id': `${argo.name}:apps/Deployment:billing/invoices` };
    await patch('billing', 'invoices', { metadata: { annotations: tracking } });
    const kept = [
      await custom.create('Kustomization', { metadata: flux, spec: { suspend: false } }),
      await custom.create('Application', { metadata: argo, spec: { syncPolicy: { automated: { selfHeal: true } } } }),
    ];
    const loops = [
      startReconciler(kubeConfig, 'Kustomization', flux, [{ namespace: 'bots', name: 'metricity', replicas: 1 }]),
      startReconciler(kubeConfig, 'Application', argo, [{ namespace: 'billing', name: 'invoices', replicas: 2 }]),
    ];
    onTestFinished(async () => void (await Promise.all(loops.map((one) => one.stop()))));
    const scaleTargetRef = { apiVersion: 'apps/v1', kind: 'Deployment', name: 'site' };
    await kubeConfig.makeApiClient(AutoscalingV2Api).createNamespacedHorizontalPodAutoscaler({
      namespace: 'web',
      body: { metadata: { name: 'site' }, spec: { minReplicas: 2, maxReplicas: 4, scaleTargetRef } },
    });
    const counts = { 'web/site': 2, 'bots/metricity': 1, 'billing/invoices': 2 };
    for (const [place, count] of Object.entries(counts)) {
      const [namespace = '', name = ''] = place.split('/');
      await patch(namespace, name, { spec: { replicas: count - 1 } });
      await eventually(`${place} set back to ${count}`, 60, async () => {
        const { spec } = await apps.readNamespacedDeployment({ namespace, name });
        return spec?.replicas === count ? true : undefined;
      });
      await waitForWorkload(on.access, namespace, name);
    }
    const acted = loops.map(({ actions }) => actions.length);
    const lost = await losePod(on, 'mail', 'digest');

    const workflowId = await start(on);
    const scene = sceneOf(on, (await reachGate(on, workflowId, 'begin')).plan);
    const before = await takeSnapshot(scene);
    await answer(on, workflowId, 'begin');
    const { park } = await follow(on, workflowId, 'a park', (status) => status.park !== null);
    expect(park).toMatchObject({
      phase: 'quiesce',
      type: 'NotStopped',
      message: expect.stringContaining(
        `pod mail/${lost} of Deployment digest did not end within its grace period of 10 s`,
      ),
    });
    await core.deleteNamespacedPod({ namespace: 'mail', name: lost, gracePeriodSeconds: 0 });
    await sendMessage(on.session, workflowId, 'resolve', { park: park?.id ?? '', action: 'retry', by: 'e2e' });
    for (const gate of ['replace', 'reopen', 'cleanup'] as const) await answer(on, workflowId, gate);
    await expectUpgraded(on, workflowId, before, scene);

    expect(loops.map(({ actions }) => actions.length)).toEqual(acted);
    const after = [
      await custom.get('Kustomization', 'gitops', 'apps'),
      await custom.get('Application', 'gitops', 'shop'),
    ];
    expect(after.map(({ spec }) => spec)).toEqual(kept.map(({ spec }) => spec));
    const { plan } = await upgradeStatus(on.session, workflowId);
    const paused = plan?.facts?.cluster.reconcilers.map(({ kind, keeps }) => [kind, keeps]) ?? [];
    expect(Object.fromEntries(paused)).toEqual({
      Application: ['Deployment billing/invoices'],
      Kustomization: ['Deployment bots/metricity'],
    });
  },
);

/** One more pod of the Deployment, on a node that nobody hears of any more: its end is asked for and never comes. */
async function losePod({ access }: Stage, namespace: string, app: string): Promise<string> {
  const { core } = access;
  const { items } = await core.listNamespacedPod({ namespace, labelSelector: `app=${app}` });
  const { labels = {}, ownerReferences = [] } = items[0]?.metadata ?? {};
  await core.createNode({ body: { metadata: { name: 'lost' }, spec: { unschedulable: true } } });
  onTestFinished(async () => void (await maybe(core.deleteNode({ name: 'lost' }))));
  const name = `${app}-lost`;
  await core.createNamespacedPod({
    namespace,
    body: {
      metadata: { name, labels, ownerReferences },
      spec: {
        nodeName: 'lost',
        terminationGracePeriodSeconds: 1,
        containers: [{ name: 'main', image: 'pgleap/sandbox-service:1' }],
      },
    },
  });
  // The ReplicaSet has one too many.
  await eventually('the end asked for', 30, async () => {
    const { metadata } = await core.readNamespacedPod({ namespace, name });
    return metadata?.deletionTimestamp === undefined ? undefined : true;
  });
  return name;
}
