/**
 * Spec to plan: everything is read, nothing is changed. `planPostgres` ends here; `upgradePostgres` begins here.
 */
import { ApplicationFailure, workflowInfo } from '@temporalio/workflow';
import type { Check } from '../domain/checks.ts';
import { milliseconds } from '../domain/duration.ts';
import { extraCost, labelCheck, noCloneCheck, planHash, versionCheck, type Plan } from '../domain/plan.ts';
import type { Spec } from '../domain/spec.ts';
import { majorOfImage } from '../domain/versions.ts';
import { act } from './activities.ts';

/** Read-only: what `upgradePostgres` would do, with every check, also when some FAILED: their list is what people need. */
export async function planPostgres(input: unknown): Promise<Plan> {
  const { workflowId } = workflowInfo();
  if (workflowId.startsWith('pgleap/')) {
    throw ApplicationFailure.nonRetryable(
      `The workflow id ${workflowId} is kept for upgrades. Start planPostgres as pgleap-plan/<anything>.`,
      'WrongWorkflowId',
    );
  }
  const spec = await act('resolveSpec', 'read the spec', input);
  return makePlan(spec);
}

/** The plan, also when checks FAILED. */
export async function makePlan(spec: Spec): Promise<Plan> {
  const [cluster, routes, artifacts] = await Promise.all([
    act('inspectCluster', 'look at the cluster', { spec }),
    act('inspectRoutes', 'look at the routes', { maintenance: spec.maintenance }),
    act('artifactStore', 'find the artifact store'),
  ]);
  const checks: Check[] = [...cluster.checks, ...routes.checks];
  checks.push(...[labelCheck(spec), noCloneCheck(spec)].filter((check) => check !== null));
  const forecast = { extraCost: null, downtimeSeconds: null };
  if (!cluster.facts) return { facts: null, checks, forecast, hash: null };

  const { database } = cluster.facts;
  const [source, volume] = await Promise.all([
    act('inspectSource', 'look into the source', { spec, database }),
    spec.clone === 'none' ? null : act('inspectVolume', 'look at the original volume', { volume: database.volume }),
  ]);
  checks.push(...source.checks, ...(volume?.checks ?? []));
  if (!source.facts || volume?.facts === null) return { facts: null, checks, forecast, hash: null };

  const targetMajor = spec.target.major ?? majorOfImage(spec.target.image);
  checks.push(versionCheck(source.facts.major, targetMajor));
  const facts = {
    cluster: cluster.facts,
    source: source.facts,
    volume: volume?.facts ?? null,
    routes: routes.routes,
    targetMajor,
    artifacts,
  };
  return {
    facts,
    checks,
    forecast: { ...forecast, extraCost: extraCost(facts, milliseconds(spec.retention)) },
    hash: planHash(spec, facts),
  };
}

/** A failure that lists every FAILED check with its remedy; undefined when none FAILED. `changed` says what became of the world. */
export function refusal(checks: readonly Check[], changed = 'nothing was changed'): ApplicationFailure | undefined {
  const failed = checks.filter(({ status }) => status === 'FAILED');
  if (failed.length === 0) return undefined;
  const lines = failed.map(
    ({ id, message, remedy }) => `- ${id}: ${message}${remedy === undefined ? '' : ` ${remedy}`}`,
  );
  return ApplicationFailure.nonRetryable(
    `${failed.length === 1 ? 'A check' : `${failed.length} checks`} FAILED; ${changed}.\n${lines.join('\n')}`,
    'PreflightRefused',
  );
}

/** Throws WrongWorkflowId unless the id is the one that locks this database. */
export function checkWorkflowId(workflowId: string, spec: Spec): void {
  const wanted = `pgleap/${spec.database.namespace}/${spec.database.workload}`;
  if (workflowId === wanted) return;
  throw ApplicationFailure.nonRetryable(
    `The workflow id is ${workflowId}, and must be ${wanted}: it is the lock that keeps two upgrades of one database apart.`,
    'WrongWorkflowId',
  );
}
