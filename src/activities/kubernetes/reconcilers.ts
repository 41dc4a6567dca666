import type { Check } from '../../domain/checks.ts';
import type { Kube } from './client.ts';

/*
 * Whoever would undo what pgleap does: an operator, GitOps, an autoscaler. Each is named before anything is changed.
 */

export interface Subject {
  /** As in messages: `Deployment databases/postgres`. */
  says: string;
  namespace: string;
  labels: Record<string, string>;
  annotations: Record<string, string>;
  owners: { apiVersion: string; kind: string; name: string }[];
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
      ownerReferences?: { apiVersion: string; kind: string; name: string }[];
    };
  },
): Subject {
  const { namespace = '', name = '', labels = {}, annotations = {}, ownerReferences = [] } = object.metadata ?? {};
  return { says: `${kind} ${namespace}/${name}`, namespace, labels, annotations, owners: ownerReferences };
}

/** The checks that somebody else keeps this object as it is; none when nobody does. */
export async function reconcilersOf(kube: Kube, subject: Subject): Promise<Check[]> {
  const { says, labels, annotations, owners } = subject;
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
  const checks: Check[] = owners.map((owner) => ({
    id: 'kube.owner',
    status: 'FAILED',
    message: `${says} belongs to ${owner.kind} ${owner.name} (${owner.apiVersion}), which would undo changes.`,
    remedy: 'Upgrade by way of that owner, or stop its controller and remove the ownerReference for the time.',
  }));
  const argo = await argoCheck(kube, subject);
  const flux = await fluxCheck(kube, subject);
  if (argo !== undefined) checks.push(argo);
  if (flux !== undefined) checks.push(flux);
  const release = annotations['meta.helm.sh/release-name'];
  if (release !== undefined || labels['app.kubernetes.io/managed-by'] === 'Helm') {
    checks.push({
      id: 'kube.helm',
      status: 'INFO',
      message: `${says} was installed by Helm${release === undefined ? '' : ` (release ${release})`}: set the new image in its values before the next helm upgrade, and run none during this upgrade.`,
    });
  }
  return checks;
}

async function argoCheck(kube: Kube, { says, labels, annotations }: Subject): Promise<Check | undefined> {
  const tracking = annotations['argocd.argoproj.io/tracking-id'];
  const known =
    tracking?.split(':')[0] ??
    labels['argocd.argoproj.io/instance'] ??
    Object.keys({ ...labels, ...annotations }).find((key) => key.startsWith('argocd.argoproj.io/'));
  // Argo's default mark is a label that Helm charts write as well.
  const maybe = labels['app.kubernetes.io/managed-by'] === 'Helm' ? undefined : labels['app.kubernetes.io/instance'];
  if (known === undefined && maybe === undefined) return undefined;
  const name = known ?? maybe ?? '';
  const found = await items(kube, '/apis/argoproj.io/v1alpha1/applications');
  if (found === undefined && known === undefined) return undefined;
  const application = found?.find((one) => one.metadata?.name === name);
  if (known === undefined && application === undefined) return undefined;
  if (application !== undefined && application.spec?.syncPolicy?.automated === undefined) {
    return {
      id: 'kube.argo-cd',
      status: 'INFO',
      message: `${says} is tracked by Argo CD (${name}), which does not sync by itself.`,
    };
  }
  return {
    id: 'kube.argo-cd',
    status: 'FAILED',
    message: `${says} is kept as in Git by Argo CD (${name}), which would undo changes within minutes.`,
    remedy: `argocd app set ${name} --sync-policy none; put it back after the upgrade, with the new image in Git.`,
  };
}

async function fluxCheck(kube: Kube, { says, labels, annotations }: Subject): Promise<Check | undefined> {
  for (const [prefix, plural, kind] of [
    ['kustomize.toolkit.fluxcd.io', 'kustomizations', 'kustomization'],
    ['helm.toolkit.fluxcd.io', 'helmreleases', 'helmrelease'],
  ] as const) {
    const name = labels[`${prefix}/name`];
    if (name === undefined) continue;
    const namespace = labels[`${prefix}/namespace`] ?? 'flux-system';
    const version = plural === 'kustomizations' ? 'v1' : 'v2';
    const owner = (await items(kube, `/apis/${prefix}/${version}/namespaces/${namespace}/${plural}`))?.find(
      (one) => one.metadata?.name === name,
    );
    if (owner?.spec?.suspend === true || annotations[`${prefix}/reconcile`] === 'disabled') {
      return {
        id: 'kube.flux',
        status: 'INFO',
        message: `${says} is of Flux’s ${kind} ${namespace}/${name}, which is suspended.`,
      };
    }
    return {
      id: 'kube.flux',
      status: 'FAILED',
      message: `${says} is kept as in Git by Flux (${kind} ${namespace}/${name}), which would undo changes within minutes.`,
      remedy: `flux suspend ${kind} ${name} -n ${namespace}; resume it after the upgrade, with the new image in Git.`,
    };
  }
  return undefined;
}

interface CustomObject {
  metadata?: { name?: string; namespace?: string; annotations?: Record<string, string> };
  spec?: {
    suspend?: boolean;
    syncPolicy?: { automated?: unknown };
    scaleTargetRef?: { kind?: string; name?: string };
  };
}

/** Custom resources of a list path; undefined when the cluster does not have them. */
async function items(kube: Kube, path: string): Promise<CustomObject[] | undefined> {
  const list = await kube.read(path);
  if (typeof list !== 'object' || list === null || !('items' in list) || !Array.isArray(list.items)) return undefined;
  return list.items;
}

export interface Scalers {
  /** Name of the HPA by `<namespace>/<kind>/<name>` of what it scales. */
  hpas: Map<string, string>;
  /** The same of KEDA's ScaledObjects that are not paused. */
  scaledObjects: Map<string, string>;
}

/** Autoscalers of workloads in the namespaces of `touched`. */
export async function findScalers(kube: Kube, touched: { namespace: string }[]): Promise<Scalers> {
  const hpas = new Map<string, string>();
  for (const namespace of new Set(touched.map((one) => one.namespace))) {
    for (const { metadata, spec } of await kube.list('HorizontalPodAutoscaler', { namespace })) {
      const target = spec?.scaleTargetRef;
      if (target !== undefined) hpas.set(`${namespace}/${target.kind}/${target.name}`, metadata?.name ?? '');
    }
  }
  const scaledObjects = new Map<string, string>();
  // Without KEDA, who may not list its objects would be answered 403 instead of 404.
  const keda = (await kube.read('/apis/keda.sh/v1alpha1')) !== undefined;
  const all = keda ? await items(kube, '/apis/keda.sh/v1alpha1/scaledobjects') : undefined;
  for (const { metadata, spec } of all ?? []) {
    if (metadata?.annotations?.['autoscaling.keda.sh/paused-replicas'] === '0') continue;
    const { kind = 'Deployment', name = '' } = spec?.scaleTargetRef ?? {};
    scaledObjects.set(`${metadata?.namespace}/${kind}/${name}`, metadata?.name ?? '');
  }
  return { hpas, scaledObjects };
}
