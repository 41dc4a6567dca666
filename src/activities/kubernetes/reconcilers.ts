import type { Check } from '../../domain/checks.ts';
import type { ReconcilerFact } from '../../domain/facts.ts';
import type { Kube } from './client.ts';
import { listCustom, pausing, reconcilerFact, reconcilerText, type CustomObject } from './custom.ts';

/*
 * Whoever would undo what pgleap does: an operator, GitOps, an autoscaler. Each is named before anything is changed. What
 * keeps services is paused for the time where its object can be; what keeps the database is not: it would have to stay paused
 * until the new image is in its source, and only a person knows when that is.
 */

export interface Subject {
  /** As in messages: `Deployment databases/postgres`. */
  says: string;
  namespace: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  owners: { apiVersion: string; kind: string; name: string; uid: string }[];
}

const operators: { group: RegExp; label: RegExp; name: string; way: string }[] = [
  {
    group: /^postgresql\.cnpg\.io\//,
    label: /^cnpg\.io\//,
    name: 'CloudNativePG',
    way: 'change spec.imageName of its Cluster: the operator runs pg_upgrade itself',
  },
  {
    group: /^acid\.zalan\.do\//,
    label: /^cluster-name$/,
    name: 'the Zalando Postgres Operator',
    way: 'change spec.postgresql.version of its postgresql resource',
  },
  {
    group: /^postgres-operator\.crunchydata\.com\//,
    label: /^postgres-operator\.crunchydata\.com\//,
    name: 'Crunchy PGO',
    way: 'create a PGUpgrade object',
  },
  {
    group: /^pgv2\.percona\.com\//,
    label: /^pgv2\.percona\.com\//,
    name: 'the Percona Operator',
    way: 'create a PerconaPGUpgrade object',
  },
  {
    group: /^stackgres\.io\//,
    label: /^stackgres\.io\//,
    name: 'StackGres',
    way: 'create an SGDbOps of op majorVersionUpgrade',
  },
  {
    group: /kubedb\.com\//,
    label: /^(app\.)?kubedb\.com\//,
    name: 'KubeDB',
    way: 'create a PostgresOpsRequest of type UpdateVersion',
  },
];

export function subjectOf(
  kind: string,
  object: {
    metadata?: {
      namespace?: string;
      name?: string;
      labels?: Record<string, string>;
      annotations?: Record<string, string>;
      ownerReferences?: { apiVersion: string; kind: string; name: string; uid: string }[];
    };
  },
): Subject {
  const { namespace = '', name = '', labels = {}, annotations = {}, ownerReferences = [] } = object.metadata ?? {};
  return { says: `${kind} ${namespace}/${name}`, namespace, labels, annotations, owners: ownerReferences };
}

/** Something that keeps an object as it wants it. */
interface Keeper {
  id: 'kube.argo-cd' | 'kube.flux' | 'kube.keda';
  /** As in messages: `Flux’s Kustomization flux-system/apps`. */
  says: string;
  /** false: it acts on nobody's word but a person's. */
  active: boolean;
  /** null when its object is not in this cluster, so that it cannot be paused. */
  fact: ReconcilerFact | null;
  object: CustomObject | null;
  /** How a person stops it. */
  remedy: string;
}

/** The checks that somebody else keeps the database's object as it is; none when nobody does. */
export async function databaseKeepers(kube: Kube, subject: Subject): Promise<Check[]> {
  const { says } = subject;
  const checks = ownerChecks(subject);
  for (const { id, says: who, active, remedy } of await keepersOf(kube, subject)) {
    checks.push(
      active
        ? {
            id,
            status: 'FAILED',
            message: `${says} is kept by ${who}, which would undo changes within minutes.`,
            remedy: `${remedy} Switch it on again when its source holds the new image.`,
          }
        : { id, status: 'INFO', message: `${says} is kept by ${who}, which is paused or waits for a person.` },
    );
  }
  return [...checks, ...helmChecks(subject)];
}

/** The same of a service, and what of it can be paused. */
export async function serviceKeepers(
  kube: Kube,
  subject: Subject,
): Promise<{ checks: Check[]; reconcilers: ReconcilerFact[] }> {
  const { says } = subject;
  const checks = ownerChecks(subject);
  const reconcilers: ReconcilerFact[] = [];
  for (const found of await keepersOf(kube, subject)) {
    const { fact, active, says: who, id, remedy } = found;
    if (!active) {
      const message = `${says} is kept by ${who}, which is paused or waits for a person.`;
      checks.push({ id, status: 'INFO', message });
      continue;
    }
    const why = fact === null ? 'it is not in this cluster' : await whyNotPaused(kube, found);
    if (fact === null || why !== null) {
      const message = `${says} is kept by ${who}, which would start it in the middle of the upgrade and cannot be paused: ${why}.`;
      checks.push({ id, status: 'FAILED', message, remedy });
      continue;
    }
    reconcilers.push({ ...fact, keeps: [says] });
    checks.push({ id, status: 'INFO', message: `${says} is kept by ${who}, which is paused for the time.` });
  }
  return { checks: [...checks, ...helmChecks(subject)], reconcilers };
}

function ownerChecks({ says, labels, owners }: Subject): Check[] {
  const operator = operators.find(
    ({ group, label, name }) =>
      owners.some((owner) => group.test(owner.apiVersion)) ||
      (Object.keys(labels).some((key) => label.test(key)) &&
        // Only Zalando's pods say so with a label of their own beside a name that anybody may use.
        (!name.includes('Zalando') || labels['application'] === 'spilo')),
  );
  if (operator !== undefined) {
    return [
      {
        id: 'kube.operator',
        status: 'FAILED',
        message: `${says} is run by ${operator.name}, which would undo every change of pgleap.`,
        remedy: `Upgrade it the operator’s own way: ${operator.way}.`,
      },
    ];
  }
  return owners.map((owner) => ({
    id: 'kube.owner',
    status: 'FAILED',
    message: `${says} belongs to ${owner.kind} ${owner.name} (${owner.apiVersion}), which would undo changes.`,
    remedy: 'Upgrade by way of that owner, or stop its controller and remove the ownerReference for the time.',
  }));
}

function helmChecks({ says, labels, annotations }: Subject): Check[] {
  const release = annotations['meta.helm.sh/release-name'];
  if (release === undefined && labels['app.kubernetes.io/managed-by'] !== 'Helm') return [];
  const name = release === undefined ? '' : ` (release ${release})`;
  return [
    {
      id: 'kube.helm',
      status: 'INFO',
      message: `${says} was installed by Helm${name}: set the new image in its values before the next helm upgrade, and run none during this upgrade.`,
    },
  ];
}

async function keepersOf(kube: Kube, subject: Subject): Promise<Keeper[]> {
  return [...(await argoKeepers(kube, subject)), ...(await fluxKeepers(kube, subject))];
}

/** What would switch a paused keeper on again: its owner, or whatever keeps the very field that pauses it. */
async function whyNotPaused(kube: Kube, { fact, object }: Keeper): Promise<string | null> {
  if (fact === null || object === null) return null;
  const subject = subjectOf(fact.kind, object);
  const owner = subject.owners[0];
  if (owner !== undefined) return `${owner.kind} ${owner.name}, which it belongs to, would switch it on again`;
  // What GitOps does not find in its source it leaves as it is.
  if (fact.before === null) return null;
  const above = (await keepersOf(kube, subject)).find(
    (one) => one.active && !(one.fact !== null && one.fact.uid === fact.uid),
  );
  return above === undefined ? null : `${above.says}, which keeps it, would switch it on again`;
}

async function argoKeepers(kube: Kube, { labels, annotations }: Subject): Promise<Keeper[]> {
  const tracking = annotations['argocd.argoproj.io/tracking-id'];
  const known =
    tracking?.split(':')[0] ??
    labels['argocd.argoproj.io/instance'] ??
    Object.keys({ ...labels, ...annotations }).find((key) => key.startsWith('argocd.argoproj.io/'));
  // Argo's default mark is a label that Helm charts write as well.
  const maybe = labels['app.kubernetes.io/managed-by'] === 'Helm' ? undefined : labels['app.kubernetes.io/instance'];
  const name = known ?? maybe;
  if (name === undefined) return [];
  const found = (await listCustom(kube, 'Application')) ?? [];
  // Applications outside of Argo CD's own namespace are marked as `<namespace>_<name>`.
  const applications = found.filter(
    ({ metadata }) => metadata?.name === name || `${metadata?.namespace}_${metadata?.name}` === name,
  );
  const remedy = `argocd app set ${name} --sync-policy none`;
  if (applications.length > 0) {
    return applications.map((object) => keeper('kube.argo-cd', 'Application', object, `${remedy}.`));
  }
  if (known === undefined) return [];
  const says = `Argo CD’s Application ${name}`;
  return [{ id: 'kube.argo-cd', says, active: true, fact: null, object: null, remedy: `${remedy}.` }];
}

async function fluxKeepers(kube: Kube, { labels, annotations }: Subject): Promise<Keeper[]> {
  const keepers: Keeper[] = [];
  for (const kind of ['Kustomization', 'HelmRelease'] as const) {
    const { group, says } = pausing[kind];
    const name = labels[`${group}/name`];
    if (name === undefined) continue;
    const namespace = labels[`${group}/namespace`] ?? 'flux-system';
    const object = (await listCustom(kube, kind, namespace))?.find(({ metadata }) => metadata?.name === name);
    const remedy = `flux suspend ${kind.toLowerCase()} ${name} -n ${namespace}.`;
    const disabled = annotations[`${group}/reconcile`] === 'disabled';
    const one: Keeper =
      object === undefined
        ? { id: 'kube.flux', says: `${says} ${namespace}/${name}`, active: true, fact: null, object: null, remedy }
        : keeper('kube.flux', kind, object, remedy);
    keepers.push({ ...one, active: one.active && !disabled });
  }
  return keepers;
}

function keeper(id: Keeper['id'], kind: ReconcilerFact['kind'], object: CustomObject, remedy: string): Keeper {
  const fact = reconcilerFact(kind, object);
  return { id, says: reconcilerText(fact), active: !pausing[kind].isPaused(object), fact, object, remedy };
}

interface Scaler {
  name: string;
  /** What it never goes below; an HPA with 0 scales up from 0, others leave 0 alone. */
  least: number;
}

export interface Scalers {
  /** The HPA by `<namespace>/<kind>/<name>` of what it scales. */
  hpas: Map<string, Scaler>;
  /** The same of KEDA's ScaledObjects. */
  scaledObjects: Map<string, CustomObject>;
}

/** Autoscalers of workloads in the namespaces of `touched`. */
export async function findScalers(kube: Kube, touched: { namespace: string }[]): Promise<Scalers> {
  const hpas = new Map<string, Scaler>();
  for (const namespace of new Set(touched.map((one) => one.namespace))) {
    for (const { metadata, spec } of await kube.list('HorizontalPodAutoscaler', { namespace })) {
      const target = spec?.scaleTargetRef;
      if (target === undefined) continue;
      const scaler = { name: metadata?.name ?? '', least: spec?.minReplicas ?? 1 };
      hpas.set(`${namespace}/${target.kind}/${target.name}`, scaler);
    }
  }
  const scaledObjects = new Map<string, CustomObject>();
  // Without KEDA, who may not list its objects would be answered 403 instead of 404.
  const keda = (await kube.read('/apis/keda.sh/v1alpha1')) !== undefined;
  for (const object of (keda ? await listCustom(kube, 'ScaledObject') : undefined) ?? []) {
    const { kind = 'Deployment', name = '' } = object.spec?.scaleTargetRef ?? {};
    scaledObjects.set(`${object.metadata?.namespace}/${kind}/${name}`, object);
  }
  return { hpas, scaledObjects };
}

/**
 * The checks that something changes the service's count, and what of it can be paused. An HPA does nothing while the count is
 * 0 (condition ScalingActive: ScalingDisabled), unless it may scale to 0 itself.
 */
export async function scalerKeepers(
  kube: Kube,
  says: string,
  scalers: { hpa: Scaler | undefined; scaledObject: CustomObject | undefined },
): Promise<{ checks: Check[]; reconcilers: ReconcilerFact[] }> {
  const { hpa, scaledObject } = scalers;
  if (scaledObject !== undefined) return await kedaKeeper(kube, says, scaledObject);
  if (hpa === undefined) return { checks: [], reconcilers: [] };
  const check: Check =
    hpa.least > 0
      ? {
          id: 'kube.hpa',
          status: 'INFO',
          message: `${says} is scaled by HPA ${hpa.name}, which leaves it alone at 0 and takes over again when it is back.`,
        }
      : {
          id: 'kube.hpa',
          status: 'FAILED',
          message: `${says} is scaled by HPA ${hpa.name} with minReplicas 0, which scales up from 0 and would start it in the middle of the upgrade.`,
          remedy: `Set minReplicas of HPA ${hpa.name} to 1 for the time.`,
        };
  return { checks: [check], reconcilers: [] };
}

async function kedaKeeper(
  kube: Kube,
  says: string,
  object: CustomObject,
): Promise<{ checks: Check[]; reconcilers: ReconcilerFact[] }> {
  const { namespace, name, annotations } = object.metadata ?? {};
  const held = annotations?.['autoscaling.keda.sh/paused-replicas'];
  const command = `kubectl -n ${namespace} annotate scaledobject ${name}`;
  const one = keeper('kube.keda', 'ScaledObject', object, `${command} autoscaling.keda.sh/paused=true.`);
  const failed = (why: string, remedy: string) => ({
    checks: [
      {
        id: one.id,
        status: 'FAILED' as const,
        message: `${says} is scaled by ${one.says}, which would start it in the middle of the upgrade and cannot be paused: ${why}.`,
        remedy,
      },
    ],
    reconcilers: [],
  });
  if (held !== undefined && held !== '0') {
    return failed(
      `its annotation paused-replicas holds it at ${held}`,
      `${command} autoscaling.keda.sh/paused-replicas-.`,
    );
  }
  if (held === '0' || !one.active) {
    const message = `${says} is scaled by ${one.says}, which is paused.`;
    return { checks: [{ id: one.id, status: 'INFO', message }], reconcilers: [] };
  }
  const why = await whyNotPaused(kube, one);
  if (why !== null) return failed(why, one.remedy);
  return {
    checks: [
      { id: one.id, status: 'INFO', message: `${says} is scaled by ${one.says}, which is paused for the time.` },
    ],
    reconcilers: one.fact === null ? [] : [{ ...one.fact, keeps: [says] }],
  };
}
