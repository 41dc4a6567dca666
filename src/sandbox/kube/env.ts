import type { Container, Pod } from './objects.ts';
import { bytesOf } from './quantities.ts';
import type { Store } from './store.ts';

/** A container can't be made from what its pod refers to; the kubelet shows the message and tries again. */
export class ConfigProblem extends Error {}

/** Command, arguments and environment of a container with all references resolved. */
export interface ResolvedCommand {
  env: Record<string, string>;
  command?: string[];
  args?: string[];
}

/** Throws ConfigProblem when a ConfigMap, a Secret or a key that isn't optional is missing. */
export function resolveCommand(store: Store, pod: Pod, container: Container, podIP: string): ResolvedCommand {
  const env: Record<string, string> = {};
  for (const source of container.envFrom ?? []) {
    const ref = source.configMapRef ?? source.secretRef;
    const data = source.configMapRef === undefined ? secretData(store, pod, ref?.name) : mapData(store, pod, ref?.name);
    if (data === undefined && ref?.optional !== true) throw missing(source.configMapRef === undefined, ref?.name);
    for (const [key, value] of Object.entries(data ?? {})) env[`${source.prefix ?? ''}${key}`] = value;
  }
  for (const { name, value, valueFrom } of container.env ?? []) {
    const resolved =
      valueFrom === undefined ? expand(value ?? '', env) : resolve(store, pod, container, valueFrom, podIP);
    if (resolved !== undefined) env[name] = resolved;
  }
  const { command, args } = container;
  return {
    env,
    ...(command === undefined ? {} : { command: command.map((part) => expand(part, env)) }),
    ...(args === undefined ? {} : { args: args.map((part) => expand(part, env)) }),
  };
}

/** `$(NAME)` becomes its value when it is known, `$$` a dollar sign, as in Kubernetes. */
export function expand(text: string, env: Record<string, string>): string {
  return text.replaceAll(/\$\$|\$\(([^)]+)\)/g, (whole, name: string | undefined) =>
    whole === '$$' ? '$' : (env[name ?? ''] ?? whole),
  );
}

function missing(secret: boolean, name: string | undefined): ConfigProblem {
  return new ConfigProblem(`${secret ? 'secret' : 'configmap'} "${name}" not found`);
}

function mapData(store: Store, pod: Pod, name = ''): Record<string, string> | undefined {
  const found = store.get('configmaps', pod.metadata.namespace ?? '', name);
  return found === undefined ? undefined : (found.data ?? {});
}

function secretData(store: Store, pod: Pod, name = ''): Record<string, string> | undefined {
  const found = store.get('secrets', pod.metadata.namespace ?? '', name);
  if (found === undefined) return undefined;
  const entries = Object.entries(found.data ?? {});
  return Object.fromEntries(entries.map(([key, value]) => [key, Buffer.from(value, 'base64').toString('utf8')]));
}

type EnvSource = NonNullable<NonNullable<Container['env']>[number]['valueFrom']>;

function resolve(store: Store, pod: Pod, container: Container, from: EnvSource, podIP: string): string | undefined {
  if (from.fieldRef !== undefined) return podField(store, pod, from.fieldRef.fieldPath, podIP);
  if (from.resourceFieldRef !== undefined) return resourceField(container, from.resourceFieldRef);
  const ref = from.configMapKeyRef ?? from.secretKeyRef;
  if (ref === undefined) return '';
  const secret = from.secretKeyRef !== undefined;
  const data = secret ? secretData(store, pod, ref.name) : mapData(store, pod, ref.name);
  const value = data?.[ref.key];
  if (value !== undefined || ref.optional === true) return value;
  if (data === undefined) throw missing(secret, ref.name);
  const where = `${pod.metadata.namespace}/${ref.name}`;
  throw new ConfigProblem(`couldn't find key ${ref.key} in ${secret ? 'Secret' : 'ConfigMap'} ${where}`);
}

/** A field of the downward API. */
export function podField(store: Store, pod: Pod, path: string, podIP: string): string {
  const keyed = /^metadata\.(labels|annotations)\['([^']+)'\]$/.exec(path);
  if (keyed !== null) return pod.metadata[keyed[1] as 'labels' | 'annotations']?.[keyed[2] ?? ''] ?? '';
  switch (path) {
    case 'metadata.name':
    case 'metadata.uid':
      return path === 'metadata.name' ? pod.metadata.name : pod.metadata.uid;
    case 'metadata.namespace':
      return pod.metadata.namespace ?? '';
    case 'metadata.labels':
    case 'metadata.annotations': {
      const values = Object.entries(pod.metadata[path === 'metadata.labels' ? 'labels' : 'annotations'] ?? {});
      return values.map(([key, value]) => `${key}=${JSON.stringify(value)}\n`).join('');
    }
    case 'spec.nodeName':
      return pod.spec.nodeName ?? '';
    case 'spec.serviceAccountName':
      return pod.spec.serviceAccountName ?? 'default';
    case 'status.podIP':
    case 'status.podIPs':
      return podIP;
    case 'status.hostIP':
    case 'status.hostIPs': {
      const addresses = store.get('nodes', '', pod.spec.nodeName ?? '')?.status?.addresses ?? [];
      return addresses.find((one) => one.type === 'InternalIP')?.address ?? '';
    }
    default:
      throw new ConfigProblem(`unsupported fieldPath: ${path}`);
  }
}

function resourceField(container: Container, ref: NonNullable<EnvSource['resourceFieldRef']>): string {
  const [kind = '', name = ''] = ref.resource.split('.');
  const value = container.resources?.[kind as 'limits' | 'requests']?.[name] ?? '0';
  const cpu = /^(\d+)m$/.exec(value);
  const amount = cpu === null ? (bytesOf(value) ?? 0) : Number(cpu[1]) / 1000;
  return String(
    Math.ceil(amount / (bytesOf(ref.divisor === undefined || ref.divisor === '0' ? '1' : ref.divisor) ?? 1)),
  );
}
