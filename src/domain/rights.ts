/**
 * What the worker must be allowed to do in the cluster, once: preflight asks for it, docs/rbac.md and the roles in deploy/ are
 * made from it (`npm run rights`).
 */
import type { ReconcilerFact, ServiceKind } from './facts.ts';
import type { Spec } from './spec.ts';

interface Rule {
  /** API group; empty for the core's. */
  group: string;
  /** Plural, with its subresource, as `pods/exec`. */
  resource: string;
  verbs: readonly string[];
  /** Only the object of this name. */
  name?: string;
  /** Only where a workload of one of these kinds is touched. */
  kinds?: readonly ServiceKind[];
  /** The verbs that a service that stays up needs as well. */
  look?: readonly string[];
  why: string;
}

const running = ['Deployment', 'StatefulSet'] as const;

/** Rules by role; the role's name in the cluster is `pgleap-<key>`. */
export const rights = {
  /** For the whole cluster: objects that belong to no namespace. */
  cluster: [
    {
      group: '',
      resource: 'namespaces',
      name: 'kube-system',
      verbs: ['get'],
      why: 'its uid is the cluster’s identity',
    },
    {
      group: '',
      resource: 'persistentvolumes',
      verbs: ['get', 'list', 'create', 'patch', 'delete'],
      why: 'Retain and back, claimRef, a new PV where the old one is gone, removal at gate cleanup',
    },
    { group: 'storage.k8s.io', resource: 'storageclasses', verbs: ['get'], why: 'how a new volume will be bound' },
    {
      group: 'storage.k8s.io',
      resource: 'volumeattachments',
      verbs: ['list'],
      why: 'only a deleted one proves that a volume is detached',
    },
  ],
  /** In the database's namespace. */
  database: [
    {
      group: 'apps',
      resource: 'deployments',
      kinds: ['Deployment'],
      verbs: ['get', 'list', 'patch', 'update'],
      why: 'the database: its count and its template',
    },
    {
      group: 'apps',
      resource: 'statefulsets',
      kinds: ['StatefulSet'],
      verbs: ['get', 'list', 'patch', 'update'],
      why: 'the same, where it is one',
    },
    {
      group: '',
      resource: 'pods',
      verbs: ['get', 'list', 'create', 'patch', 'delete'],
      why: 'source, candidate, target',
    },
    { group: '', resource: 'pods/exec', verbs: ['get', 'create'], why: 'by WebSocket: a get, and since 1.35 a create' },
    { group: '', resource: 'pods/log', verbs: ['get'], why: 'the last words of a server that does not start' },
    {
      group: '',
      resource: 'persistentvolumeclaims',
      verbs: ['get', 'create', 'patch', 'delete'],
      why: 'the claim under the data, and scratch',
    },
    { group: '', resource: 'configmaps', verbs: ['get', 'list', 'create', 'patch'], why: 'the journal' },
    {
      group: '',
      resource: 'secrets',
      verbs: ['get'],
      why: 'POSTGRES_USER, PGDATA and PGPORT where a Secret holds them',
    },
    { group: '', resource: 'services', verbs: ['list'], why: 'the names by which workloads find the database' },
    { group: '', resource: 'resourcequotas', verbs: ['list'], why: 'room for candidate, scratch and new claim' },
    { group: '', resource: 'limitranges', verbs: ['list'], why: 'the same' },
    {
      group: 'coordination.k8s.io',
      resource: 'leases',
      verbs: ['get', 'create', 'patch', 'delete'],
      why: 'one upgrade at a time; pgleap recover takes it over',
    },
    { group: 'autoscaling', resource: 'horizontalpodautoscalers', verbs: ['list'], why: 'who scales the database' },
  ],
  /** In each namespace of a listed service, also in the database's if one is there. */
  services: [
    {
      group: 'apps',
      resource: 'deployments',
      kinds: ['Deployment'],
      verbs: ['get', 'patch'],
      look: ['get'],
      why: 'to 0 and back',
    },
    {
      group: 'apps',
      resource: 'statefulsets',
      kinds: ['StatefulSet'],
      verbs: ['get', 'patch'],
      look: ['get'],
      why: 'to 0 and back',
    },
    {
      group: 'batch',
      resource: 'cronjobs',
      kinds: ['CronJob'],
      verbs: ['get', 'patch'],
      look: ['get'],
      why: 'suspended and resumed',
    },
    { group: 'batch', resource: 'jobs', kinds: ['CronJob'], verbs: ['list'], why: 'those under way are awaited' },
    { group: '', resource: 'pods', kinds: running, verbs: ['list'], why: 'none is left; all are ready again' },
    { group: '', resource: 'pods/log', kinds: running, verbs: ['get'], why: 'whether they complain after the upgrade' },
    {
      group: 'autoscaling',
      resource: 'horizontalpodautoscalers',
      kinds: running,
      verbs: ['list'],
      look: ['list'],
      why: 'who owns the count',
    },
  ],
  /** For the whole cluster, and may be left out: preflight then says what it could not see. */
  survey: [
    { group: 'apps', resource: 'deployments', verbs: ['list'], why: 'who uses the database and is not listed?' },
    { group: 'apps', resource: 'statefulsets', verbs: ['list'], why: 'the same' },
    { group: 'batch', resource: 'cronjobs', verbs: ['list'], why: 'the same' },
    { group: '', resource: 'configmaps', verbs: ['get'], why: 'hosts that their environment takes from there' },
  ],
  /** For the whole cluster, where Argo CD keeps a touched object. */
  'argo-cd': [
    {
      group: 'argoproj.io',
      resource: 'applications',
      verbs: ['get', 'list', 'patch'],
      why: 'whether it syncs by itself; paused for the time',
    },
  ],
  /** For the whole cluster, where Flux keeps a touched object. */
  flux: [
    {
      group: 'kustomize.toolkit.fluxcd.io',
      resource: 'kustomizations',
      verbs: ['get', 'list', 'patch'],
      why: 'whether it is suspended; suspended for the time',
    },
    {
      group: 'helm.toolkit.fluxcd.io',
      resource: 'helmreleases',
      verbs: ['get', 'list', 'patch'],
      why: 'the same',
    },
  ],
  /** For the whole cluster, where KEDA is installed. */
  keda: [
    {
      group: 'keda.sh',
      resource: 'scaledobjects',
      verbs: ['get', 'list', 'patch'],
      why: 'who scales up from 0; paused for the time',
    },
  ],
} as const satisfies Record<string, readonly Rule[]>;

export type RoleName = keyof typeof rights;

/** One thing that must be allowed: without a namespace in all of them, or of an object that has none. */
export interface Right {
  role: RoleName;
  group: string;
  resource: string;
  verb: string;
  name?: string;
  namespace?: string;
}

function rightsIn(
  role: RoleName,
  namespace?: string,
  choose: (rule: Rule) => readonly string[] = (rule) => rule.verbs,
) {
  const rules: readonly Rule[] = rights[role];
  return rules.flatMap((rule) =>
    choose(rule).map((verb): Right => {
      const { group, resource, name } = rule;
      return {
        role,
        group,
        resource,
        verb,
        ...(name === undefined ? {} : { name }),
        ...(namespace === undefined ? {} : { namespace }),
      };
    }),
  );
}

/** Everything that an upgrade of this spec will ask for, with its undo and its cleanup, each once. */
export function rightsFor({ database, services }: Pick<Spec, 'database' | 'services'>): Right[] {
  const all = [
    ...rightsIn('cluster'),
    ...rightsIn('database', database.namespace, (rule) =>
      rule.kinds?.includes(database.kind) === false ? [] : rule.verbs,
    ),
    ...services.flatMap(({ kind, namespace, readOnly }) =>
      rightsIn('services', namespace, (rule) => {
        if (rule.kinds?.includes(kind) === false) return [];
        return readOnly ? (rule.look ?? []) : rule.verbs;
      }),
    ),
  ];
  return [...new Map(all.map((right) => [`${rightText(right)} ${right.namespace}`, right])).values()];
}

const keepers = { Application: 'argo-cd', Kustomization: 'flux', HelmRelease: 'flux', ScaledObject: 'keda' } as const;

/** What pausing these asks for; the spec does not tell that they are there. */
export function rightsToPause(reconcilers: Pick<ReconcilerFact, 'kind' | 'namespace'>[]): Right[] {
  return reconcilers.flatMap(({ kind, namespace }) =>
    rightsIn(keepers[kind], namespace, ({ resource, verbs }) => (resource === `${kind.toLowerCase()}s` ? verbs : [])),
  );
}

/** As in messages: `patch deployments.apps`. */
export function rightText({ verb, group, resource, name }: Omit<Right, 'role' | 'namespace'>): string {
  return `${verb} ${resource}${group === '' ? '' : `.${group}`}${name === undefined ? '' : ` ${name}`}`;
}
