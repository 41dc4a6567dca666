/**
 * The plan: the spec resolved against the world. Its hash covers what was asked and what was found, not what varies by the
 * minute while services still write (sizes, times): the same plan made twice has the same hash.
 */
import type { Check } from './checks.ts';
import type { BlockVolumeFact, ClusterFacts, DatabaseFact, RouteFact, ServiceFact, SourceFacts } from './facts.ts';
import type { Spec } from './spec.ts';
import { canonicalHash } from './hash.ts';
import { whyNotUpgrade } from './versions.ts';
import { cloneLabel, isVolumeLabel } from './labels.ts';

export interface PlanFacts {
  cluster: ClusterFacts;
  source: SourceFacts;
  /** null when the spec goes without a clone: then the provider is not asked. */
  volume: BlockVolumeFact | null;
  routes: RouteFact[];
  /** null when the image's tag does not tell; then the candidate is asked. */
  targetMajor: number | null;
  artifacts: { queue: string; folder: string };
}

/** What is expected, from measured numbers only. null: nobody knows. */
export interface Forecast {
  /** US dollars for clone and new volume beside the old one, over the retention time. */
  extraCost: number | null;
  /** Seconds of downtime, known after a rehearsal only. */
  downtimeSeconds: number | null;
}

export interface Plan {
  /** null when a FAILED check left the facts incomplete. */
  facts: PlanFacts | null;
  checks: Check[];
  forecast: Forecast;
  /** null when facts are. */
  hash: string | null;
}

/** Only upwards, only over a major: the check that says so. `to` is null when the image's tag does not tell. */
export function versionCheck(from: number, to: number | null): Check {
  const id = 'target.major';
  if (to === null) {
    return {
      id,
      status: 'FAILED',
      message: 'The target’s major version cannot be read from its image’s tag.',
      remedy: 'Set target.major in the spec; the candidate shows later whether the image really holds it.',
    };
  }
  const why = whyNotUpgrade(from, to);
  if (why === null) return { id, status: 'PASSED', message: `PostgreSQL ${from} to ${to}.` };
  return {
    id,
    status: 'FAILED',
    message: `${why[0]?.toUpperCase() ?? ''}${why.slice(1)}.`,
    remedy: 'Name an image of a newer major version in target.image.',
  };
}

/** What must be known of an upgrade whose spec goes without a clone. */
export function noCloneCheck(spec: Spec): Check | null {
  if (spec.clone !== 'none') return null;
  return {
    id: 'clone.none',
    status: 'WARNING',
    message: `There will be no clone at the provider (clone: none): ${onlyWayBack}.`,
    remedy: 'Take a snapshot with the provider’s own tools, or keep another backup, before you approve.',
  };
}

/** What is left to go back to without a clone. */
export const onlyWayBack =
  'beside the dump, the original volume itself is the only way back; its PV is kept under Retain, and it is not written';

function wantedLabel(spec: Spec): string | undefined {
  return spec.clone === 'none' ? undefined : spec.clone.label;
}

/** The check that a label the operator chose suits the provider. */
export function labelCheck(spec: Spec): Check | null {
  const label = wantedLabel(spec);
  if (label === undefined || isVolumeLabel(label)) return null;
  return {
    id: 'clone.label',
    status: 'FAILED',
    message: `clone.label ${JSON.stringify(label)} is no label for a volume.`,
    remedy: 'Use 2 to 32 letters, digits, - and _, a letter first, without -- and __; or leave it out.',
  };
}

/**
 * What makes a database the same one: neither its pod and template of the moment, nor the reclaim policy that prepare changes,
 * nor the claim's annotations, which any tool may write.
 */
function lastingDatabase(database: DatabaseFact): unknown {
  const { pod: _pod, podIp: _podIp, templateHash: _templateHash, volume, claim, ...rest } = database;
  const { reclaimPolicy: _reclaimPolicy, ...lastingVolume } = volume;
  const { annotations: _annotations, ...lastingClaim } = claim;
  return { ...rest, claim: lastingClaim, volume: lastingVolume };
}

/** Counts of services that an HPA owns change all the time, and nobody is asked about them. */
function lastingServices(services: readonly ServiceFact[]): unknown {
  return services.map((service) => (service.hpa === null ? service : { ...service, replicas: null }));
}

/**
 * What is not as it was planned, `services` with what keeps them; the database's pod and an HPA's counts may be others at any
 * time.
 */
export function changedSince(planned: ClusterFacts, found: ClusterFacts): { database: boolean; services: boolean } {
  const differ = (a: unknown, b: unknown) => canonicalHash(a) !== canonicalHash(b);
  return {
    database:
      planned.clusterUid !== found.clusterUid ||
      differ(lastingDatabase(planned.database), lastingDatabase(found.database)),
    services:
      differ(lastingServices(planned.services), lastingServices(found.services)) ||
      differ(planned.reconcilers, found.reconcilers),
  };
}

/** Facts that stay the same while services still write: the part of the plan that its hash covers. */
function lasting(spec: Spec, facts: PlanFacts): unknown {
  const { probeMs: _probeMs, bytes: _bytes, ...source } = facts.source;
  const { services, database, ...cluster } = facts.cluster;
  const manifests = spec.database.manifests.map((manifest) => ({
    name: manifest.name,
    hash: canonicalHash(manifest.text),
  }));
  return {
    spec: { ...spec, database: { ...spec.database, manifests } },
    cluster: { ...cluster, database: lastingDatabase(database), services: lastingServices(services) },
    source,
    volume: facts.volume && { ...facts.volume, monthlyPrice: null },
    routes: facts.routes,
    targetMajor: facts.targetMajor,
  };
}

export function planHash(spec: Spec, facts: PlanFacts): string {
  return canonicalHash(lasting(spec, facts));
}

/** Bytes for a candidate's data, a compressed dump or two and fingerprints; never less than the original volume has. */
export function scratchBytes(sourceBytes: number, capacityBytes: number): number {
  return Math.max(capacityBytes, sourceBytes * 3);
}

/**
 * US dollars until gate cleanup, over `retentionMs`, for what stands beside the original volume: its clone, the new volume
 * and the scratch volume. null when the provider named no price, or was not asked for one.
 */
export function extraCost(facts: Pick<PlanFacts, 'volume' | 'source' | 'cluster'>, retentionMs: number): number | null {
  if (facts.volume === null || facts.volume.monthlyPrice === null) return null;
  const { monthlyPrice, sizeGb } = facts.volume;
  const { capacityBytes } = facts.cluster.database.claim;
  const scratchGb = Math.ceil(scratchBytes(facts.source.bytes, capacityBytes) / 2 ** 30);
  const months = retentionMs / (30 * 86_400_000);
  return Math.round((monthlyPrice / sizeGb) * (2 * sizeGb + scratchGb) * months * 100) / 100;
}

/** The clone's label in this upgrade; of no clone's when the spec goes without. */
export function plannedCloneLabel(spec: Spec, facts: PlanFacts, upgradeId: string): string {
  return cloneLabel(upgradeId, facts.cluster.database.claim.name, wantedLabel(spec));
}
