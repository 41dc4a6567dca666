import { isDeepStrictEqual } from 'node:util';
import { parseCron } from './controllers/cron.ts';
import { conflict, invalid, type FieldProblem } from './failures.ts';
import type { AnyObject, Claim, Container, Kinds, PodTemplate, Resource } from './objects.ts';
import { bytesOf } from './quantities.ts';
import type { ResourceInfo } from './resources.ts';
import { matches } from './selectors.ts';

const label = /^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$/;
const subdomain = /^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/;
const labelValue = /^(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?$/;
const qualifiedName = /^([a-z0-9.-]{1,253}\/)?([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$/;

type PodSpec = NonNullable<PodTemplate['spec']>;

function required(field: string): FieldProblem {
  return { field, reason: 'FieldValueRequired', message: 'Required value' };
}

function wrong(field: string, value: unknown, why: string): FieldProblem {
  return { field, reason: 'FieldValueInvalid', message: `Invalid value: ${JSON.stringify(value)}: ${why}` };
}

function forbidden(field: string, why: string): FieldProblem {
  return { field, reason: 'FieldValueForbidden', message: `Forbidden: ${why}` };
}

/** Throws 422 naming every field that a real API server would refuse, as far as the sandbox looks. */
export function validate(info: ResourceInfo, object: AnyObject): void {
  const problems = [...metaProblems(info, object), ...(rules[info.resource]?.(object as never) ?? [])];
  if (problems.length > 0) throw invalid(info, object.metadata.name, problems);
}

function metaProblems(info: ResourceInfo, object: AnyObject): FieldProblem[] {
  const { name, labels } = object.metadata;
  const problems: FieldProblem[] = [];
  const wantsLabel = info.resource === 'services' || info.resource === 'namespaces';
  if (wantsLabel ? !label.test(name) : !subdomain.test(name) || name.length > 253) {
    problems.push(
      wrong(
        'metadata.name',
        name,
        `a lowercase RFC 1123 ${wantsLabel ? 'label' : 'subdomain'} must consist of lower case alphanumeric characters, '-'${wantsLabel ? '' : " or '.'"}, and must start and end with an alphanumeric character`,
      ),
    );
  }
  for (const [key, value] of Object.entries(labels ?? {})) {
    if (!qualifiedName.test(key)) problems.push(wrong('metadata.labels', key, 'name part must be a qualified name'));
    if (!labelValue.test(value)) problems.push(wrong('metadata.labels', value, 'a valid label must be 63 characters'));
  }
  for (const key of Object.keys(object.metadata.annotations ?? {})) {
    if (!qualifiedName.test(key.toLowerCase())) {
      problems.push(wrong('metadata.annotations', key, 'name part must be a qualified name'));
    }
  }
  return problems;
}

const rules: { [R in Resource]?: (object: Kinds[R]) => FieldProblem[] } = {
  pods: (object) => podProblems(object.spec, 'spec'),
  customresourcedefinitions: ({ spec }) =>
    spec.versions.flatMap(({ schema }, index) =>
      schema?.openAPIV3Schema === undefined ? [required(`spec.versions[${index}].schema.openAPIV3Schema`)] : [],
    ),
  configmaps: (object) => keyProblems('data', { ...object.data, ...object.binaryData }),
  secrets: (object) => keyProblems('data', object.data ?? {}),
  services: (object) =>
    object.spec.type !== 'ExternalName' && (object.spec.ports ?? []).length === 0 && object.spec.clusterIP !== 'None'
      ? [required('spec.ports')]
      : [],
  persistentvolumeclaims: (object) => claimProblems(object.spec, 'spec'),
  persistentvolumes({ spec }) {
    const problems: FieldProblem[] = [];
    if (bytesOf(spec.capacity?.['storage']) === undefined) problems.push(required('spec.capacity'));
    if ((spec.accessModes ?? []).length === 0) problems.push(required('spec.accessModes'));
    if (spec.csi === undefined && spec.hostPath === undefined && spec.local === undefined && spec.nfs === undefined) {
      problems.push({ ...required('spec'), message: 'Required value: must specify a volume type' });
    }
    if (spec.csi !== undefined && !spec.csi.driver) problems.push(required('spec.csi.driver'));
    if (spec.csi !== undefined && !spec.csi.volumeHandle) problems.push(required('spec.csi.volumeHandle'));
    return problems;
  },
  deployments({ spec }) {
    const problems = workloadProblems(spec);
    if (spec.strategy?.type === 'Recreate' && spec.strategy.rollingUpdate !== undefined) {
      problems.push(
        forbidden('spec.strategy.rollingUpdate', "may not be specified when strategy `type` is 'Recreate'"),
      );
    }
    return problems;
  },
  statefulsets: ({ spec }) =>
    workloadProblems(
      spec,
      (spec.volumeClaimTemplates ?? []).map((claim) => claim.metadata?.name ?? ''),
    ),
  replicasets: ({ spec }) => (spec.template === undefined ? [required('spec.template')] : []),
  jobs: ({ spec }) => jobTemplateProblems(spec.template, 'spec.template'),
  cronjobs({ spec }) {
    const problems: FieldProblem[] = [];
    try {
      parseCron(spec.schedule);
    } catch (error) {
      problems.push(wrong('spec.schedule', spec.schedule, error instanceof Error ? error.message : String(error)));
    }
    const template = spec.jobTemplate?.spec?.template;
    if (template === undefined) problems.push(required('spec.jobTemplate.spec.template'));
    else problems.push(...jobTemplateProblems(template, 'spec.jobTemplate.spec.template'));
    return problems;
  },
};

function keyProblems(field: string, data: Record<string, unknown>): FieldProblem[] {
  return Object.keys(data)
    .filter((key) => !/^[-._a-zA-Z0-9]{1,253}$/.test(key) || key === '.' || key === '..')
    .map((key) =>
      wrong(`${field}[${key}]`, key, 'a valid config key must consist of alphanumeric characters, -, _ or .'),
    );
}

interface WorkloadSpec {
  replicas?: number;
  selector?: Kinds['deployments']['spec']['selector'];
  template?: PodTemplate;
}

function workloadProblems(spec: WorkloadSpec, claimed: string[] = []): FieldProblem[] {
  const problems: FieldProblem[] = [];
  if (typeof spec.replicas === 'number' && (spec.replicas < 0 || !Number.isInteger(spec.replicas))) {
    problems.push(wrong('spec.replicas', spec.replicas, 'must be greater than or equal to 0'));
  }
  if (spec.selector === undefined) problems.push(required('spec.selector'));
  if (spec.template?.spec === undefined) return [...problems, required('spec.template.spec')];
  if (spec.selector !== undefined && !matches(spec.selector, spec.template.metadata?.labels)) {
    const labels = spec.template.metadata?.labels ?? {};
    problems.push(wrong('spec.template.metadata.labels', labels, '`selector` does not match template `labels`'));
  }
  return [...problems, ...podProblems(spec.template.spec, 'spec.template.spec', claimed)];
}

function jobTemplateProblems(template: PodTemplate | undefined, field: string): FieldProblem[] {
  if (template?.spec === undefined) return [required(`${field}.spec`)];
  const policy = template.spec.restartPolicy;
  const problems = podProblems(template.spec, `${field}.spec`);
  if (policy !== 'Never' && policy !== 'OnFailure') {
    problems.push({
      field: `${field}.spec.restartPolicy`,
      reason: 'FieldValueNotSupported',
      message: `Unsupported value: ${JSON.stringify(policy)}: supported values: "OnFailure", "Never"`,
    });
  }
  return problems;
}

/** `claimed` are volumes that the controller adds to the pods. */
function podProblems(spec: PodSpec, field: string, claimed: string[] = []): FieldProblem[] {
  const containers = spec.containers ?? [];
  if (containers.length === 0) return [required(`${field}.containers`)];
  const volumes = new Set([...claimed, ...(spec.volumes ?? []).map((volume) => volume.name)]);
  const names = new Set<string>();
  return containers.flatMap((container, index) =>
    containerProblems(container, `${field}.containers[${index}]`, names, volumes),
  );
}

function containerProblems(container: Container, field: string, names: Set<string>, volumes: Set<string>) {
  const problems: FieldProblem[] = [];
  if (!container.name) problems.push(required(`${field}.name`));
  else if (!label.test(container.name))
    problems.push(wrong(`${field}.name`, container.name, 'a lowercase RFC 1123 label'));
  if (names.has(container.name)) problems.push(wrong(`${field}.name`, container.name, 'Duplicate value'));
  names.add(container.name);
  if (!container.image) problems.push(required(`${field}.image`));
  for (const [index, mount] of (container.volumeMounts ?? []).entries()) {
    if (!mount.mountPath) problems.push(required(`${field}.volumeMounts[${index}].mountPath`));
    if (!volumes.has(mount.name)) {
      problems.push({
        ...wrong(`${field}.volumeMounts[${index}].name`, mount.name, ''),
        message: `Not found: "${mount.name}"`,
      });
    }
  }
  return problems;
}

function claimProblems(spec: Claim['spec'], field: string): FieldProblem[] {
  const problems: FieldProblem[] = [];
  const modes = spec.accessModes ?? [];
  if (modes.length === 0)
    problems.push({
      ...required(`${field}.accessModes`),
      message: 'Required value: at least 1 access mode is required',
    });
  if (modes.includes('ReadWriteOncePod') && modes.length > 1) {
    problems.push(forbidden(`${field}.accessModes`, 'may not use ReadWriteOncePod with other access modes'));
  }
  const storage = spec.resources?.requests?.['storage'];
  if (storage === undefined) problems.push(required(`${field}.resources[storage]`));
  else if (!bytesOf(storage)) problems.push(wrong(`${field}.resources[storage]`, storage, 'must be greater than zero'));
  return problems;
}

/** Throws 422 when an update touches what can't change, 409 when it is meant for another object of that name. */
export function validateUpdate(info: ResourceInfo, before: AnyObject, after: AnyObject): void {
  const { name } = before.metadata;
  if (before.metadata.deletionTimestamp !== undefined) {
    const old = before.metadata.finalizers ?? [];
    const added = (after.metadata.finalizers ?? []).filter((finalizer) => !old.includes(finalizer));
    if (added.length > 0) {
      const why = `no new finalizers can be added if the object is being deleted, found new finalizers []string{${added.map((one) => `"${one}"`).join(', ')}}`;
      throw invalid(info, name, [forbidden('metadata.finalizers', why)]);
    }
  }
  const problems = (updateRules[info.resource] as UpdateRule<AnyObject> | undefined)?.(before, after) ?? [];
  if (problems.length > 0) throw invalid(info, name, problems);
}

/** Compares uid and resourceVersion of a write with what is stored. */
export function checkPreconditions(
  info: ResourceInfo,
  stored: AnyObject,
  wanted: { uid?: string | undefined; resourceVersion?: string | undefined },
): void {
  const { name, uid, resourceVersion } = stored.metadata;
  if (wanted.uid && wanted.uid !== uid) {
    throw conflict(info, name, `Precondition failed: UID in precondition: ${wanted.uid}, UID in object meta: ${uid}`);
  }
  if (wanted.resourceVersion && wanted.resourceVersion !== resourceVersion) {
    const why = 'the object has been modified; please apply your changes to the latest version and try again';
    throw conflict(info, name, why);
  }
}

type UpdateRule<T> = (before: T, after: T) => FieldProblem[];

const immutable = 'field is immutable';

function same(field: string, before: unknown, after: unknown, why = immutable): FieldProblem[] {
  return isDeepStrictEqual(before, after) ? [] : [wrong(field, after, why)];
}

const updateRules: { [R in Resource]?: UpdateRule<Kinds[R]> } = {
  deployments: (before, after) => same('spec.selector', before.spec.selector, after.spec.selector),
  replicasets: (before, after) => same('spec.selector', before.spec.selector, after.spec.selector),
  jobs: (before, after) => [
    ...same('spec.template', before.spec.template, after.spec.template),
    ...same('spec.selector', before.spec.selector, after.spec.selector),
    ...same('spec.completions', before.spec.completions, after.spec.completions),
  ],
  statefulsets(before, after) {
    const free = ['replicas', 'template', 'updateStrategy', 'minReadySeconds', 'ordinals', 'revisionHistoryLimit'];
    free.push('persistentVolumeClaimRetentionPolicy');
    const rest = (spec: object) => Object.fromEntries(Object.entries(spec).filter(([key]) => !free.includes(key)));
    const why = `updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden`;
    return isDeepStrictEqual(rest(before.spec), rest(after.spec)) ? [] : [forbidden('spec', why)];
  },
  pods(before, after) {
    const why =
      'pod updates may not change fields other than `spec.containers[*].image`, `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`, `spec.tolerations` (only additions to existing tolerations), `spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)';
    return isDeepStrictEqual(fixedPart(before.spec), fixedPart(after.spec)) ? [] : [forbidden('spec', why)];
  },
  persistentvolumeclaims(before, after) {
    const rest = ({ resources, volumeAttributesClassName: _v, volumeName, ...spec }: Claim['spec']) => ({
      ...spec,
      // The binder and an admin may fill it in once.
      volumeName: before.spec.volumeName === undefined ? undefined : volumeName,
      limits: resources?.limits,
    });
    if (!isDeepStrictEqual(rest(before.spec), rest(after.spec))) {
      const why =
        'spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims';
      return [forbidden('spec', why)];
    }
    const [old, now] = [before, after].map((claim) => bytesOf(claim.spec.resources?.requests?.['storage']) ?? 0);
    if (now === old) return [];
    if ((now ?? 0) < (old ?? 0)) {
      return [forbidden('spec.resources.requests.storage', 'field can not be less than previous value')];
    }
    if (before.status?.phase === 'Bound') return [];
    return [forbidden('spec', 'only bound claims can be expanded')];
  },
  persistentvolumes(before, after) {
    return [
      ...(isDeepStrictEqual(sourceOf(before.spec), sourceOf(after.spec))
        ? []
        : [forbidden('spec.persistentvolumesource', 'spec.persistentvolumesource is immutable after creation')]),
      ...same('spec.volumeMode', before.spec.volumeMode, after.spec.volumeMode),
      ...same('spec.nodeAffinity', before.spec.nodeAffinity, after.spec.nodeAffinity),
    ];
  },
  volumeattachments: (before, after) => same('spec', before.spec, after.spec),
  configmaps: (before, after) =>
    before.immutable === true
      ? same('data', before.data, after.data, 'field is immutable when `immutable` is set')
      : [],
  secrets: (before, after) => [
    ...same('type', before.type, after.type),
    ...(before.immutable === true
      ? same('data', before.data, after.data, 'field is immutable when `immutable` is set')
      : []),
  ],
  storageclasses: (before, after) => [
    ...same('provisioner', before.provisioner, after.provisioner),
    ...same('reclaimPolicy', before.reclaimPolicy, after.reclaimPolicy),
    ...same('parameters', before.parameters, after.parameters),
  ],
};

/** What can't change in a pod. */
function fixedPart({
  containers,
  activeDeadlineSeconds: _a,
  tolerations: _t,
  ...rest
}: Kinds['pods']['spec']): unknown {
  return { ...rest, containers: containers.map((container) => ({ ...container, image: '' })) };
}

function sourceOf({ csi, hostPath, local, nfs }: Kinds['persistentvolumes']['spec']): unknown {
  return { csi, hostPath, local, nfs };
}
