import type { Check } from '../../domain/checks.ts';
import type { ServiceFact, WorkloadRef } from '../../domain/facts.ts';
import type { Access, Kube } from './client.ts';

/*
 * What the worker must be allowed to do, asked before anything is changed: a verb that is missing in the middle of the
 * downtime would park the upgrade there. docs/rbac.md is the same list as rules.
 */

function rules(group: string, resource: string, verbs: string[], namespace?: string): Access[] {
  return verbs.map((verb) => ({ group, resource, verb, ...(namespace === undefined ? {} : { namespace }) }));
}

const plurals = { Deployment: 'deployments', StatefulSet: 'statefulsets', CronJob: 'cronjobs' } as const;

export async function accessChecks(kube: Kube, database: WorkloadRef, services: ServiceFact[]): Promise<Check[]> {
  const { namespace } = database;
  const needed = [
    ...rules('', 'persistentvolumes', ['get', 'list', 'patch', 'delete']),
    ...rules('storage.k8s.io', 'volumeattachments', ['list']),
    ...rules('apps', plurals[database.kind], ['get', 'list', 'patch', 'update'], namespace),
    ...rules('', 'pods', ['get', 'list', 'create', 'patch', 'delete'], namespace),
    ...rules('', 'pods/exec', ['get'], namespace),
    ...rules('', 'pods/log', ['get'], namespace),
    ...rules('', 'persistentvolumeclaims', ['get', 'create', 'delete'], namespace),
    ...rules('', 'configmaps', ['get', 'list', 'create', 'patch'], namespace),
    ...rules('coordination.k8s.io', 'leases', ['get', 'create', 'delete'], namespace),
    ...services
      .filter(({ readOnly }) => !readOnly)
      .flatMap(({ kind, namespace: where }) => [
        ...rules(kind === 'CronJob' ? 'batch' : 'apps', plurals[kind], ['get', 'patch'], where),
        ...(kind === 'CronJob' ? rules('batch', 'jobs', ['list'], where) : rules('', 'pods', ['list'], where)),
        ...(kind === 'CronJob' ? [] : rules('', 'pods/log', ['get'], where)),
      ]),
  ];
  const distinct = new Map(needed.map((one) => [textOf(one), one]));
  const missing: string[] = [];
  for (const [text, access] of distinct) {
    const allowed = await kube.allowed(access);
    if (allowed === undefined) {
      const message =
        'This API server does not say what it will allow; a verb that is missing is seen only when it is needed.';
      return [{ id: 'kube.access', status: 'SKIPPED', message }];
    }
    if (!allowed) missing.push(text);
  }
  if (missing.length === 0) {
    return [{ id: 'kube.access', status: 'PASSED', message: `All ${distinct.size} kinds of request are allowed.` }];
  }
  return [
    {
      id: 'kube.access',
      status: 'FAILED',
      message: `The worker’s user may not: ${missing.join('; ')}.`,
      remedy: 'Give it the rules of docs/rbac.md.',
    },
  ];
}

function textOf({ verb, group, resource, namespace }: Access): string {
  return `${verb} ${resource}${group === '' ? '' : `.${group}`}${namespace === undefined ? '' : ` in ${namespace}`}`;
}
