/** What would start services again: found, paused, put back; and services that run again are noticed. */
import { AppsV1Api, PatchStrategy, setHeaderOptions } from '@kubernetes/client-node';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { createKubernetesActivities, type KubernetesActivities } from '../../src/activities/kubernetes/index.ts';
import { inspectServices } from '../../src/activities/kubernetes/inspect-services.ts';
import { databaseKeepers, findScalers, subjectOf } from '../../src/activities/kubernetes/reconcilers.ts';
import type { Check } from '../../src/domain/checks.ts';
import type { AtRest, ReconcilerFact, ServiceFact, World } from '../../src/domain/facts.ts';
import { rightsToPause } from '../../src/domain/rights.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { deploymentOf, eventually, startWorld, type World as Cluster } from '../sandbox/kube-parts.ts';
import { customObjects, defineKinds, startReconciler, type ReconcilerKind } from '../support/reconcilers.ts';
import { failureOf, run } from './environment.ts';

const namespace = 'web';
let cluster: Cluster;
let kube: Kube;
let apps: AppsV1Api;
let custom: ReturnType<typeof customObjects>;
let activities: KubernetesActivities;
let world: World;

beforeAll(async () => {
  cluster = await startWorld();
  kube = createKube(cluster.config);
  apps = cluster.config.makeApiClient(AppsV1Api);
  custom = customObjects(cluster.config);
  activities = createKubernetesActivities({
    kubeConfig: cluster.config,
    removeVolume: async () => undefined,
    provider: { hasVolume: async () => true, findClone: async () => null },
  });
  await kube.create('Namespace', { metadata: { name: namespace } });
  await kube.create('Namespace', { metadata: { name: 'gitops' } });
  await defineKinds(cluster.config);
  const uid = (await kube.get('Namespace', { name: 'kube-system' })).metadata?.uid ?? '';
  world = { clusterUid: uid, upgradeId: 'u0badcafe', startedAt: new Date().toISOString(), namespace };
}, 60_000);

afterAll(async () => {
  await cluster.close();
  expect(cluster.problems).toEqual([]);
});

const merge = setHeaderOptions('Content-Type', PatchStrategy.MergePatch);

/** A Deployment, ready, with these marks. */
async function deploy(
  name: string,
  marks: { labels?: Record<string, string>; annotations?: Record<string, string>; ownerReferences?: object[] } = {},
  options: Parameters<typeof deploymentOf>[1] = { replicas: 2 },
): Promise<void> {
  const { metadata, ...rest } = deploymentOf(name, options);
  await kube.create('Deployment', { metadata: { ...metadata, ...marks, namespace }, ...rest } as never);
  await eventually(async () => {
    const { status } = await kube.get('Deployment', { namespace, name });
    return (status?.readyReplicas ?? 0) === (options.replicas ?? 1);
  }, `${name} ready`);
}

async function inspect(...names: string[]): Promise<AtRest & { checks: Check[] }> {
  const spec = specSchema.parse({
    database: { namespace: 'databases' },
    target: { image: 'postgres:18' },
    services: names.map((name) => ({ namespace, name })),
  });
  const database = { kind: 'Deployment' as const, namespace: 'databases', name: 'postgres', uid: 'x' };
  const checks: Check[] = [];
  const found = await inspectServices(kube, spec, database, await findScalers(kube, [{ namespace }]), checks);
  return { ...found, checks: checks.filter(({ id }) => id !== 'kube.services') };
}

function only<T>(list: T[]): T {
  expect(list).toHaveLength(1);
  return list[0] as T;
}

async function replicas(name: string): Promise<number | undefined> {
  return (await kube.get('Deployment', { namespace, name })).spec?.replicas;
}

interface Case {
  kind: ReconcilerKind;
  name: string;
  labels?: Record<string, string>;
  annotations?: Record<string, string>;
  spec: object;
  paused: object;
}

const cases: Case[] = [
  {
    kind: 'Application',
    name: 'argo',
    annotations: { 'argocd.argoproj.io/tracking-id': 'argo:apps/Deployment:web/argo' },
    spec: { project: 'default', syncPolicy: { automated: { prune: true, selfHeal: true }, retry: { limit: 3 } } },
    paused: { project: 'default', syncPolicy: { retry: { limit: 3 } } },
  },
  {
    kind: 'Kustomization',
    name: 'flux',
    labels: { 'kustomize.toolkit.fluxcd.io/name': 'flux', 'kustomize.toolkit.fluxcd.io/namespace': 'gitops' },
    spec: { interval: '1m' },
    paused: { interval: '1m', suspend: true },
  },
  {
    kind: 'HelmRelease',
    name: 'helm',
    labels: { 'helm.toolkit.fluxcd.io/name': 'helm', 'helm.toolkit.fluxcd.io/namespace': 'gitops' },
    spec: { interval: '1m', suspend: false },
    paused: { interval: '1m', suspend: true },
  },
  {
    kind: 'ScaledObject',
    name: 'keda',
    spec: { scaleTargetRef: { name: 'keda' }, triggers: [] },
    paused: { scaleTargetRef: { name: 'keda' }, triggers: [] },
  },
];

describe.each(cases)('$kind', ({ kind, name, labels, annotations, spec, paused }) => {
  const home = kind === 'ScaledObject' ? namespace : 'gitops';
  let reconciler: ReconcilerFact;
  let service: ServiceFact;
  let loop: ReturnType<typeof startReconciler>;
  let before: unknown;

  afterAll(async () => {
    await loop?.stop();
  });

  test('is found, with what it is now', async () => {
    await deploy(name, { ...(labels ? { labels } : {}), ...(annotations ? { annotations } : {}) });
    const made = await custom.create(kind, { metadata: { namespace: home, name }, spec });
    before = [made.spec, made.metadata.annotations];
    loop = startReconciler(cluster.config, kind, { namespace: home, name }, [{ namespace, name, replicas: 2 }]);
    const found = await inspect(name);
    expect(only(found.checks)).toMatchObject({
      status: 'INFO',
      message: expect.stringContaining('paused for the time'),
    });
    reconciler = only(found.reconcilers);
    service = only(found.services);
    expect(reconciler).toMatchObject({ kind, namespace: home, name, keeps: [`Deployment web/${name}`] });
    expect(rightsToPause([reconciler]).map(({ verb, resource, namespace: where }) => [verb, resource, where])).toEqual(
      ['get', 'list', 'patch'].map((verb) => [verb, `${kind.toLowerCase()}s`, home]),
    );
    expect(service.hpa).toBe(kind === 'ScaledObject' ? name : null);
  });

  test('would start the service again, and is noticed with its name', async () => {
    await run(() => activities.stopService({ world, service })).catch(() => undefined);
    await eventually(async () => loop.actions.length > 0, 'a count set back');
    const atRest = { services: [service], reconcilers: [] };
    const failure = await failureOf(
      run(() => activities.seeAtRest({ world, atRest })),
      'NotStopped',
      [],
    );
    expect(failure.message).toMatch(new RegExp(`Deployment web/${name} was set back to 2 by \\S+ at .*--replicas=0`));
    await run(() => activities.restoreService({ world, service }));
  });

  test('leaves the service at 0 while it is paused', async () => {
    await run(() => activities.pauseReconciler({ world, reconciler }));
    await run(() => activities.pauseReconciler({ world, reconciler }));
    expect((await custom.get(kind, home, name)).spec).toEqual(paused);
    await run(() => activities.stopService({ world, service }));
    const acted = loop.actions.length;
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(loop.actions.length).toBe(acted);
    await run(() => activities.seeAtRest({ world, atRest: { services: [service], reconcilers: [reconciler] } }));
    const found = await inspect(name);
    expect(found.reconcilers).toEqual([]);
  });

  test('goes on exactly as it was', async () => {
    await run(() => activities.restoreService({ world, service }));
    await run(() => activities.resumeReconciler({ world, reconciler }));
    await run(() => activities.resumeReconciler({ world, reconciler }));
    const { spec: after, metadata } = await custom.get(kind, home, name);
    expect([after, metadata.annotations ?? {}]).toEqual([(before as unknown[])[0], (before as unknown[])[1] ?? {}]);
    expect(await replicas(name)).toBe(2);
  });

  test('is left alone when somebody switched it on meanwhile, and that is noticed', async () => {
    await run(() => activities.pauseReconciler({ world, reconciler }));
    const on =
      kind === 'Application'
        ? { spec: { syncPolicy: { automated: { prune: false } } } }
        : kind === 'ScaledObject'
          ? { metadata: { annotations: { 'autoscaling.keda.sh/paused': 'false' } } }
          : { spec: { suspend: false } };
    await custom.patch(kind, home, name, on, 'somebody');
    const atRest = { services: [], reconcilers: [reconciler] };
    const failure = await failureOf(
      run(() => activities.seeAtRest({ world, atRest })),
      'NotStopped',
      [],
    );
    expect(failure.message).toMatch(/was switched on again by somebody at .* would start Deployment web\//);
    await run(() => activities.resumeReconciler({ world, reconciler }));
    const { spec: after, metadata } = await custom.get(kind, home, name);
    expect({ spec: after, metadata }).toMatchObject(on);
    expect(JSON.stringify(metadata.annotations ?? {})).not.toContain('pgleap');
    // Another plan is needed for what it is now.
    if (kind !== 'HelmRelease') {
      await expect(run(() => activities.pauseReconciler({ world, reconciler }))).rejects.toMatchObject({
        type: 'WrongWorld',
      });
    }
  });
});

describe('what cannot be paused is refused, with its name', () => {
  const refused = async (name: string) => {
    const { checks, reconcilers } = await inspect(name);
    expect(reconcilers).toEqual([]);
    return only(checks.filter(({ status }) => status === 'FAILED'));
  };
  const argo = (name: string) => ({
    annotations: { 'argocd.argoproj.io/tracking-id': `${name}:apps/Deployment:web/x` },
  });
  /** By something that there is: the garbage collector removes what has lost its owner. */
  const ownedBy = async (home: string, name: string) => {
    const { metadata } = await kube.create('ConfigMap', { metadata: { namespace: home, name } });
    return [{ apiVersion: 'v1', kind: 'ConfigMap', name, uid: metadata?.uid ?? '' }];
  };
  const automated = { syncPolicy: { automated: { selfHeal: true } } };

  test('an Application that belongs to an ApplicationSet or the like, or to another Application that syncs', async () => {
    await deploy('of-a-set', argo('of-a-set'));
    const ownerReferences = await ownedBy('gitops', 'all');
    await custom.create('Application', {
      metadata: { namespace: 'gitops', name: 'of-a-set', ownerReferences },
      spec: automated,
    });
    expect((await refused('of-a-set')).message).toMatch(
      /gitops\/of-a-set.*ConfigMap all, which it belongs to, would switch it on again/,
    );

    await deploy('child', argo('child'));
    await custom.create('Application', {
      metadata: { namespace: 'gitops', name: 'child', labels: { 'argocd.argoproj.io/instance': 'root' } },
      spec: automated,
    });
    await custom.create('Application', { metadata: { namespace: 'gitops', name: 'root' }, spec: automated });
    expect((await refused('child')).message).toMatch(/gitops\/child.*Application gitops\/root.*on again/);
    await custom.patch('Application', 'gitops', 'root', { spec: { syncPolicy: { automated: { enabled: false } } } });
    expect(only((await inspect('child')).reconcilers).name).toBe('child');
  });

  test('an Application in another cluster', async () => {
    await deploy('elsewhere', argo('elsewhere'));
    expect(await refused('elsewhere')).toMatchObject({
      id: 'kube.argo-cd',
      message: expect.stringContaining('not in this cluster'),
      remedy: expect.stringContaining('argocd app set elsewhere'),
    });
  });

  test('a Kustomization whose own source sets suspend', async () => {
    const mark = (name: string) => ({
      'kustomize.toolkit.fluxcd.io/name': name,
      'kustomize.toolkit.fluxcd.io/namespace': 'gitops',
    });
    await deploy('below', { labels: mark('below') });
    await custom.create('Kustomization', { metadata: { namespace: 'gitops', name: 'above' }, spec: {} });
    await custom.create('Kustomization', {
      metadata: { namespace: 'gitops', name: 'below', labels: mark('above') },
      spec: { suspend: false },
    });
    expect((await refused('below')).message).toMatch(/gitops\/below.*Kustomization gitops\/above.*on again/);
    // What its source does not name, Flux leaves as it is.
    await custom.patch('Kustomization', 'gitops', 'below', { spec: { suspend: null } });
    expect(only((await inspect('below')).reconcilers).name).toBe('below');
  });

  test('an owner of an unknown kind, an HPA that scales from 0, KEDA held above 0', async () => {
    const ownerReferences = await ownedBy(namespace, 'main');
    await deploy('owned', { ownerReferences });
    expect((await refused('owned')).message).toMatch(/belongs to ConfigMap main \(v1\)/);

    await deploy('from-zero');
    const hpa = {
      metadata: { namespace, name: 'from-zero' },
      spec: { maxReplicas: 5, scaleTargetRef: { kind: 'Deployment', name: 'from-zero' } },
    };
    const made = await kube.create('HorizontalPodAutoscaler', { ...hpa, spec: { ...hpa.spec, minReplicas: 0 } });
    expect((await refused('from-zero')).message).toMatch(/HPA from-zero with minReplicas 0/);
    await kube.replace(
      'HorizontalPodAutoscaler' as never,
      { ...made, spec: { ...made.spec, minReplicas: 1 } } as never,
    );
    const fine = await inspect('from-zero');
    expect(only(fine.checks)).toMatchObject({ id: 'kube.hpa', status: 'INFO' });
    expect(fine.reconcilers).toEqual([]);
    expect(only(fine.services).hpa).toBe('from-zero');

    await deploy('held');
    await custom.create('ScaledObject', {
      metadata: { namespace, name: 'held', annotations: { 'autoscaling.keda.sh/paused-replicas': '3' } },
      spec: { scaleTargetRef: { name: 'held' } },
    });
    expect((await refused('held')).message).toMatch(/holds it at 3/);
  });

  test('whatever keeps the database, even what could be paused', async () => {
    const subject = subjectOf('Deployment', {
      metadata: { namespace: 'databases', name: 'postgres', labels: cases[1]?.labels ?? {} },
    });
    await custom.patch('Kustomization', 'gitops', 'flux', { spec: { suspend: null } });
    expect(only(await databaseKeepers(kube, subject))).toMatchObject({
      status: 'FAILED',
      message: expect.stringContaining('Kustomization gitops/flux'),
      remedy: expect.stringMatching(/flux suspend kustomization flux -n gitops\. Switch it on again when/),
    });
    await custom.patch('Kustomization', 'gitops', 'flux', { spec: { suspend: true } });
    expect(only(await databaseKeepers(kube, subject))).toMatchObject({ status: 'INFO' });
  });
});

test('an Application is paused when its sync under way has ended', async () => {
  const at = { namespace: 'gitops', name: 'syncing' };
  const made = await custom.create('Application', {
    metadata: at,
    spec: { syncPolicy: { automated: {} } },
    status: { operationState: { phase: 'Running' } },
  });
  const reconciler: ReconcilerFact = {
    kind: 'Application',
    ...at,
    uid: made.metadata.uid ?? '',
    apiVersion: 'argoproj.io/v1alpha1',
    before: '{}',
    keeps: ['Deployment web/x'],
  };
  let ended = false;
  const pausing = run(() => activities.pauseReconciler({ world, reconciler })).then(() => expect(ended).toBe(true));
  await eventually(
    async () => !JSON.stringify((await custom.get('Application', at.namespace, at.name)).spec).includes('automated'),
    'paused',
  );
  await new Promise((resolve) => setTimeout(resolve, 300));
  ended = true;
  await custom.patch('Application', at.namespace, at.name, { status: { operationState: { phase: 'Succeeded' } } });
  await pausing;
  await run(() => activities.resumeReconciler({ world, reconciler }));
  expect((await custom.get('Application', at.namespace, at.name)).spec).toEqual({ syncPolicy: { automated: {} } });
});

describe('a service', () => {
  async function known(name: string, options?: Parameters<typeof deploymentOf>[1]): Promise<ServiceFact> {
    await deploy(name, {}, options);
    return only((await inspect(name)).services);
  }

  test('under an HPA comes back at the count it was stopped with', async () => {
    await deploy('scaled');
    await kube.create('HorizontalPodAutoscaler', {
      metadata: { namespace, name: 'scaled' },
      spec: {
        minReplicas: 1,
        maxReplicas: 5,
        scaleTargetRef: { apiVersion: 'apps/v1', kind: 'Deployment', name: 'scaled' },
      },
    });
    const service = only((await inspect('scaled')).services);
    await apps.patchNamespacedDeployment({ namespace, name: 'scaled', body: { spec: { replicas: 4 } } }, merge);
    await run(() => activities.stopService({ world, service }));
    expect(await replicas('scaled')).toBe(0);
    await run(() => activities.startService({ world, service }));
    expect(await replicas('scaled')).toBe(4);
  });

  test('slow to stop is waited for within its grace period', async () => {
    const service = await known('slow', {
      replicas: 1,
      script: 'trap "sleep 2; exit 0" TERM; while :; do sleep 0.1; done',
    });
    await kube.patch('Deployment', service, { spec: { template: { spec: { terminationGracePeriodSeconds: 8 } } } });
    await eventually(async () => {
      const { status } = await kube.get('Deployment', service);
      return status?.updatedReplicas === 1 && status.replicas === 1 && status.readyReplicas === 1;
    }, 'rolled out');
    const began = performance.now();
    await run(() => activities.stopService({ world, service }));
    expect(performance.now() - began).toBeGreaterThan(1500);
  }, 30_000);

  test('that does not stop is reported with its pod, and not killed', async () => {
    const service = await known('stuck', { replicas: 1 });
    // As on a node that has lost its connection: nobody ends the pod.
    const [running] = await kube.list('Pod', { namespace, labels: 'app=stuck' });
    const { labels = {}, ownerReferences = [] } = running?.metadata ?? {};
    await kube.create('Pod', {
      metadata: { namespace, name: 'stuck-lost', labels, ownerReferences },
      spec: {
        nodeName: 'lost',
        terminationGracePeriodSeconds: 1,
        containers: [{ name: 'main', image: 'busybox:1', command: ['sleep', '1000'] }],
      },
    });
    const began = performance.now();
    const failure = await failureOf(
      run(() => activities.stopService({ world, service })),
      'NotStopped',
      [],
    );
    expect(failure.message).toMatch(
      /pod web\/stuck-lost of Deployment stuck did not end within its grace period of 1 s/,
    );
    expect(performance.now() - began).toBeGreaterThan(10_000);
    const pod = { namespace, name: 'stuck-lost' };
    const left = await kube.get('Pod', pod);
    expect(left.metadata?.deletionGracePeriodSeconds).toBe(1);
    // Nor is anything destroyed while it is there.
    const atRest = { services: [service], reconcilers: [] };
    await expect(run(() => activities.seeAtRest({ world, atRest }))).rejects.toThrow(/is at 0, but still has the pod/);
    await kube.remove('Pod', pod, left.metadata?.uid ?? '', { graceSeconds: 0 });
    await run(() => activities.stopService({ world, service }));
    await run(() => activities.seeAtRest({ world, atRest }));
  }, 40_000);

  test('that was at 0, and a CronJob that is on again, are noticed too', async () => {
    const service = await known('asleep', { replicas: 0 });
    await apps.patchNamespacedDeployment(
      { namespace, name: 'asleep', body: { spec: { replicas: 1 } }, fieldManager: 'kubectl' },
      merge,
    );
    await expect(
      run(() => activities.seeAtRest({ world, atRest: { services: [service], reconcilers: [] } })),
    ).rejects.toThrow(/asleep was set back to 1 by kubectl at/);
    const cron = await kube.create('CronJob', {
      metadata: { namespace, name: 'nightly' },
      spec: {
        schedule: '0 3 * * *',
        suspend: true,
        jobTemplate: {
          spec: { template: { spec: { restartPolicy: 'Never', containers: [{ name: 'x', image: 'busybox:1' }] } } },
        },
      },
    });
    const nightly: ServiceFact = {
      ...service,
      kind: 'CronJob',
      name: 'nightly',
      uid: cron.metadata?.uid ?? '',
      replicas: null,
      suspended: false,
    };
    const atRest = { services: [nightly], reconcilers: [] };
    await run(() => activities.seeAtRest({ world, atRest }));
    await kube.patch('CronJob', nightly, { spec: { suspend: false } });
    await expect(run(() => activities.seeAtRest({ world, atRest }))).rejects.toThrow(
      /nightly is not suspended any more/,
    );
    await run(() =>
      activities.seeAtRest({ world, atRest: { services: [{ ...nightly, readOnly: true }], reconcilers: [] } }),
    );
  });
});
