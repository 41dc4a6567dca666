import type { Check } from '../../domain/checks.ts';
import type { AtRest, ReconcilerFact, ServiceFact, WorkloadRef } from '../../domain/facts.ts';
import type { Spec } from '../../domain/spec.ts';
import type { Kube } from './client.ts';
import { scalerKeepers, serviceKeepers, subjectOf, type Scalers } from './reconcilers.ts';
import { annotations, replicasBefore } from './workloads.ts';

/**
 * Resolves the spec's services with their exact counts, and what must be paused for them to stay at 0; adds a check for each
 * that is missing or kept by somebody else.
 */
export async function inspectServices(
  kube: Kube,
  spec: Spec,
  database: WorkloadRef,
  scalers: Scalers,
  checks: Check[],
): Promise<AtRest> {
  const facts: ServiceFact[] = [];
  const reconcilers = new Map<string, ReconcilerFact>();
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
    const hpa = scalers.hpas.get(key);
    const scaledObject = scalers.scaledObjects.get(key);
    const count = object.spec !== undefined && 'replicas' in object.spec ? object.spec.replicas : undefined;
    const suspend = object.spec !== undefined && 'suspend' in object.spec ? object.spec.suspend : undefined;
    const marks = object.metadata?.annotations ?? {};
    // As an upgrade found it, not as it left it: a workflow that was reset to before that must not plan with what is stopped.
    const before = marks[annotations.stoppedAt] === undefined ? undefined : marks[annotations.before];
    const replicas = kind === 'CronJob' ? null : (replicasBefore(before) ?? count ?? 1);
    facts.push({
      kind,
      namespace,
      name,
      uid: object.metadata?.uid ?? '',
      replicas,
      suspended: kind === 'CronJob' ? before !== 'suspend=false' && (suspend ?? false) : null,
      readOnly,
      login: login ?? null,
      hpa: hpa?.name ?? scaledObject?.metadata?.name ?? null,
    });
    if (marks[annotations.stoppedAt] !== undefined) {
      failed(
        'kube.leftover',
        `${says} is still stopped by upgrade ${marks[annotations.upgrade]} (before: ${marks[annotations.before]}).`,
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
    for (const found of [
      await serviceKeepers(kube, subjectOf(kind, object)),
      await scalerKeepers(kube, says, { hpa, scaledObject }),
    ]) {
      checks.push(...found.checks);
      for (const one of found.reconcilers) {
        const keeps = reconcilers.get(one.uid)?.keeps ?? [];
        reconcilers.set(one.uid, { ...one, keeps: [...keeps, ...one.keeps] });
      }
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
  return { services: facts, reconcilers: [...reconcilers.values()] };
}
