import type { V1Container, V1PodSpec } from '@kubernetes/client-node';
import type { Check } from '../../domain/checks.ts';
import type { ServiceFact, WorkloadRef } from '../../domain/facts.ts';
import { isFailure } from '../errors.ts';
import type { Json, Kube } from './client.ts';

/*
 * Workloads that seem to use the database without being listed: the most dangerous omission of a spec, because they would
 * write to the source until its fence, and to the target too early.
 */

/** Values are matched here and never shown: messages name the variable. */
export async function findUnlistedUsers(
  kube: Kube,
  workload: WorkloadRef,
  podLabels: Record<string, string>,
  services: ServiceFact[],
): Promise<Check[]> {
  const hosts = (await kube.list('Service', { namespace: workload.namespace }))
    .filter(({ spec }) => {
      const selector = Object.entries(spec?.selector ?? {});
      return selector.length > 0 && selector.every(([key, value]) => podLabels[key] === value);
    })
    .map(({ metadata }) => metadata?.name ?? '');
  if (hosts.length === 0) return [];
  const listed = new Set(services.map(({ kind, namespace, name }) => `${kind} ${namespace}/${name}`));
  listed.add(`${workload.kind} ${workload.namespace}/${workload.name}`);
  const all = await orDenied(Promise.all([kube.list('Deployment'), kube.list('StatefulSet'), kube.list('CronJob')]));
  if (all === undefined) {
    return [
      {
        id: 'kube.unlisted-user',
        status: 'WARNING',
        message:
          'The workloads of the cluster may not be listed: one that uses the database and is not in services would be overlooked.',
        remedy: 'Bind pgleap-survey of docs/rbac.md, or see yourself that services names them all.',
      },
    ];
  }
  const [deployments, sets, crons] = all;
  const candidates: { says: string; namespace: string; pod: Json<V1PodSpec> | undefined }[] = [
    ...deployments.map((one) => ({
      kind: 'Deployment',
      one,
      on: (one.spec?.replicas ?? 1) > 0,
      pod: one.spec?.template.spec,
    })),
    ...sets.map((one) => ({
      kind: 'StatefulSet',
      one,
      on: (one.spec?.replicas ?? 1) > 0,
      pod: one.spec?.template.spec,
    })),
    ...crons.map((one) => ({
      kind: 'CronJob',
      one,
      on: one.spec?.suspend !== true,
      pod: one.spec?.jobTemplate.spec?.template.spec,
    })),
  ]
    .filter(({ on }) => on)
    .map(({ kind, one, pod }) => ({
      says: `${kind} ${one.metadata?.namespace}/${one.metadata?.name}`,
      namespace: one.metadata?.namespace ?? '',
      pod,
    }))
    .filter(({ says }) => !listed.has(says));
  const sources = createSources(kube);
  const checks: Check[] = [];
  for (const { says, namespace, pod } of candidates) {
    const variable = await usesHost(sources, namespace, pod, hosts, workload.namespace);
    if (variable === undefined) continue;
    checks.push({
      id: 'kube.unlisted-user',
      status: 'WARNING',
      message: `${says} seems to use the database (its environment variable ${variable} names it), but is not in services.`,
      remedy: 'List it under services, so that it is stopped and started; or see that it does not write.',
    });
  }
  if (sources.denied.size > 0) {
    checks.push({
      id: 'kube.unlisted-user',
      status: 'INFO',
      message: `${[...sources.denied].join(', ')} may not be read: workloads there that use the database may be overlooked.`,
    });
  }
  return checks;
}

/** undefined when these credentials may not see it, which `told` hears of. */
async function orDenied<T>(answer: Promise<T>, told?: () => void): Promise<T | undefined> {
  try {
    return await answer;
  } catch (error) {
    if (!isFailure(error, 'AccessDenied')) throw error;
    told?.();
    return undefined;
  }
}

interface Sources {
  config(namespace: string, name: string): Promise<Record<string, string>>;
  secret(namespace: string, name: string): Promise<Record<string, string>>;
  /** What the credentials do not open, as `Secrets of web`. */
  denied: Set<string>;
}

function createSources(kube: Kube): Sources {
  const known = new Map<string, Promise<Record<string, string>>>();
  const denied = new Set<string>();
  const once = (key: string, read: () => Promise<Record<string, string>>) => {
    const found = known.get(key) ?? read();
    known.set(key, found);
    return found;
  };
  return {
    denied,
    config: (namespace, name) =>
      once(`config ${namespace}/${name}`, async () => {
        const map = await orDenied(kube.find('ConfigMap', { namespace, name }), () =>
          denied.add(`ConfigMaps of ${namespace}`),
        );
        return map?.data ?? {};
      }),
    secret: (namespace, name) =>
      once(`secret ${namespace}/${name}`, async () => {
        const secret = await orDenied(kube.find('Secret', { namespace, name }), () =>
          denied.add(`Secrets of ${namespace}`),
        );
        return Object.fromEntries(
          Object.entries(secret?.data ?? {}).map(([key, value]) => [
            key,
            Buffer.from(value, 'base64').toString('utf8'),
          ]),
        );
      }),
  };
}

/** The first variable whose value names one of the hosts. */
async function usesHost(
  sources: Sources,
  namespace: string,
  pod: Json<V1PodSpec> | undefined,
  hosts: string[],
  home: string,
): Promise<string | undefined> {
  for (const container of [...(pod?.initContainers ?? []), ...(pod?.containers ?? [])]) {
    for await (const [name, value] of environment(sources, namespace, container)) {
      if (hosts.some((host) => namesHost(name, value, host, home, namespace === home))) return name;
    }
  }
  return undefined;
}

async function* environment(
  sources: Sources,
  namespace: string,
  container: Json<V1Container>,
): AsyncGenerator<[name: string, value: string]> {
  for (const { name, value, valueFrom } of container.env ?? []) {
    const { configMapKeyRef, secretKeyRef } = valueFrom ?? {};
    if (value !== undefined) yield [name, value];
    if (configMapKeyRef?.name !== undefined) {
      const data = await sources.config(namespace, configMapKeyRef.name);
      yield [name, data[configMapKeyRef.key] ?? ''];
    }
    if (secretKeyRef?.name !== undefined) {
      const data = await sources.secret(namespace, secretKeyRef.name);
      yield [name, data[secretKeyRef.key] ?? ''];
    }
  }
  for (const { prefix = '', configMapRef, secretRef } of container.envFrom ?? []) {
    const data =
      configMapRef?.name !== undefined
        ? await sources.config(namespace, configMapRef.name)
        : secretRef?.name !== undefined
          ? await sources.secret(namespace, secretRef.name)
          : {};
    for (const [key, value] of Object.entries(data)) yield [`${prefix}${key}`, value];
  }
}

/**
 * Whether a variable's value names the Service. The full name counts anywhere; the short one, which may be a user's or a
 * scheme's name as well, only where a host stands, and only in the Service's own namespace.
 */
function namesHost(variable: string, value: string, service: string, home: string, sameNamespace: boolean): boolean {
  if (new RegExp(`(?<![\\w.-])${quoted(`${service}.${home}`)}(?![\\w-])`).test(value)) return true;
  if (!sameNamespace) return false;
  const short = quoted(service);
  if (new RegExp(`(?:@|//|host=)${short}(?=[:/?\\s,]|$)`).test(value)) return true;
  return /host|server|addr|url|uri|dsn/i.test(variable) && new RegExp(`^${short}(?::\\d+)?$`).test(value.trim());
}

function quoted(text: string): string {
  return text.replaceAll(/[.*+?^${}()|[\]\\-]/g, String.raw`\$&`);
}
