import type { Check } from '../../domain/checks.ts';
import type { ServiceFact, WorkloadRef } from '../../domain/facts.ts';
import type { Spec } from '../../domain/spec.ts';
import type { Kube } from './client.ts';
import { reconcilersOf, subjectOf, type Scalers } from './reconcilers.ts';
import { annotations } from './workloads.ts';

/** Resolves the spec's services with their exact counts; adds a check for each that is missing or kept by somebody else. */
export async function inspectServices(
  kube: Kube,
  spec: Spec,
  database: WorkloadRef,
  scalers: Scalers,
  checks: Check[],
): Promise<ServiceFact[]> {
  const facts: ServiceFact[] = [];
  const seen = new Set<string>();
  for (const { kind, namespace, name, readOnly, login } of spec.services) {
    const key = `${namespace}/${kind}/${name}`;
    const says = `${kind} ${namespace}/${name}`;
    const failed = (id: string, message: string, remedy: string) =>
      checks.push({ id, status: 'FAILED', message, remedy });
    if (seen.has(key)) {
      failed('kube.service', `${says} is listed twice under services.`, 'List it once.');
      continue;
    }
    seen.add(key);
    if (key === `${database.namespace}/${database.kind}/${database.name}`) {
      failed('kube.service', `${says} is the database itself.`, 'Take it out of services.');
      continue;
    }
    const object = await kube.find(kind, { namespace, name });
    if (object === undefined) {
      failed(
        'kube.service',
        `${says} does not exist.`,
        'Correct kind, namespace or name under services, or take it out.',
      );
      continue;
    }
    const hpa = scalers.hpas.get(key) ?? null;
    const scaledObject = scalers.scaledObjects.get(key);
    const count = object.spec !== undefined && 'replicas' in object.spec ? object.spec.replicas : undefined;
    const suspend = object.spec !== undefined && 'suspend' in object.spec ? object.spec.suspend : undefined;
    const replicas = kind === 'CronJob' ? null : (count ?? 1);
    facts.push({
      kind,
      namespace,
      name,
      uid: object.metadata?.uid ?? '',
      replicas,
      suspended: kind === 'CronJob' ? (suspend ?? false) : null,
      readOnly,
      login: login ?? null,
      hpa,
    });
    if (object.metadata?.annotations?.[annotations.stoppedAt] !== undefined) {
      failed(
        'kube.leftover',
        `${says} is still stopped by upgrade ${object.metadata.annotations[annotations.upgrade]} (before: ${object.metadata.annotations[annotations.before]}).`,
        'Finish that upgrade first, or undo it as docs/rollback.md says under “Without Temporal”.',
      );
    }
    if (readOnly) {
      if (login === undefined) {
        checks.push({
          id: 'kube.read-only-login',
          status: 'WARNING',
          message: `${says} stays up, but without its login the fence keeps it out of the database too.`,
          remedy: 'Set the role that it logs in with as login.',
        });
      }
      // It is not touched, so nobody can undo anything.
      continue;
    }
    checks.push(...(await reconcilersOf(kube, subjectOf(kind, object))));
    if (hpa !== null) {
      checks.push({
        id: 'kube.hpa',
        status: 'INFO',
        message: `${says} is scaled by HPA ${hpa}, which leaves it alone at 0 and takes over again from its ${replicas} replicas.`,
      });
    }
    if (scaledObject !== undefined) {
      failed(
        'kube.keda',
        `${says} is scaled by KEDA (ScaledObject ${scaledObject}), which scales up from 0 and would start it in the middle of the upgrade.`,
        `Pause it: kubectl -n ${namespace} annotate scaledobject ${scaledObject} autoscaling.keda.sh/paused-replicas=0.`,
      );
    }
  }
  if (facts.length > 0) {
    const stopped = facts.filter(({ readOnly }) => !readOnly).length;
    checks.push({
      id: 'kube.services',
      status: 'INFO',
      message: `${stopped} services will be stopped, ${facts.length - stopped} read-only ones stay up.`,
    });
  } else if (spec.services.length === 0) {
    checks.push({
      id: 'kube.services',
      status: 'WARNING',
      message: 'No services are listed: whatever uses the database is cut off by the fence instead of being stopped.',
      remedy: 'List every workload that uses the database under services.',
    });
  }
  return facts;
}
