/**
 * Facts about the world, as plain JSON: what preflight resolved and what phases measured. They travel through Temporal's
 * history and into evidence hashes, so they are small and hold no secret.
 */

/** Passed to every changing activity, which compares it with the world before it changes anything. */
export interface World {
  /** uid of the namespace kube-system: the cluster's identity. */
  clusterUid: string;
  upgradeId: string;
  /** ISO time the upgrade began; nothing older is ever adopted. */
  startedAt: string;
  /** Namespace of the database, where journal, lease, candidate and scratch live. */
  namespace: string;
}

export type WorkloadKind = 'Deployment' | 'StatefulSet';
export type ServiceKind = WorkloadKind | 'CronJob';

export interface WorkloadRef {
  kind: WorkloadKind;
  namespace: string;
  name: string;
  uid: string;
}

export interface PodRef {
  namespace: string;
  name: string;
  uid: string;
  container: string;
}

/** A workload that uses the database, with what it must come back to. */
export interface ServiceFact {
  kind: ServiceKind;
  namespace: string;
  name: string;
  uid: string;
  /** Exact replica count before the upgrade; null for a CronJob. */
  replicas: number | null;
  /** Whether the CronJob was suspended already; null for workloads. */
  suspended: boolean | null;
  /** A read-only service stays up; the fence lets only its `login` through. */
  readOnly: boolean;
  login: string | null;
  /** An HPA or ScaledObject that owns the count from resume on. */
  hpa: string | null;
}

/** Something that keeps services as it wants them, and is paused while they are stopped. */
export interface ReconcilerFact {
  kind: 'Application' | 'Kustomization' | 'HelmRelease' | 'ScaledObject';
  namespace: string;
  name: string;
  uid: string;
  /** API version that it was read in, e.g. `kustomize.toolkit.fluxcd.io/v1`. */
  apiVersion: string;
  /** The field or annotation that a pause changes, as it was: JSON; null when it was absent. */
  before: string | null;
  /** What it keeps, as in messages: `Deployment web/site`. */
  keeps: string[];
}

export interface ClaimFact {
  name: string;
  uid: string;
  storageClass: string;
  accessModes: string[];
  volumeMode: string;
  /** Quantity as in the claim's spec, e.g. `10Gi`. */
  requested: string;
  /** Bytes the bound volume really has. */
  capacityBytes: number;
  labels: Record<string, string>;
  /** The operator's own: neither what controllers noted on it nor pgleap's. */
  annotations: Record<string, string>;
}

export interface VolumeFact {
  pv: string;
  pvUid: string;
  reclaimPolicy: 'Retain' | 'Delete' | 'Recycle';
  driver: string;
  /** As the CSI driver wrote it: `<volume id>-<label>` for Linode. */
  handle: string;
  /** The PV's spec without claimRef and reclaim policy: enough to make a PV on this volume, or on its clone, again. */
  spec: Record<string, unknown>;
}

export interface DatabaseFact {
  workload: WorkloadRef;
  pod: PodRef;
  podIp: string;
  port: number;
  superuser: string;
  image: string;
  /** Hash of the pod template, to see that it is the same again. */
  templateHash: string;
  /** Where the claim is mounted in the container, with the subPath if any. */
  mountPath: string;
  subPath: string | null;
  volumeName: string;
  claim: ClaimFact;
  volume: VolumeFact;
  /** Explicit PGDATA of the template, null when the image's default is used. */
  pgdataEnv: string | null;
  /** What becomes of a StatefulSet's claim when it is scaled to 0; Retain for a Deployment. */
  whenScaled: 'Retain' | 'Delete';
  terminationGraceSeconds: number;
}

export interface ClusterFacts {
  clusterUid: string;
  /** API server's address, shown to people; never a credential. */
  server: string;
  kubernetesVersion: string;
  database: DatabaseFact;
  services: ServiceFact[];
  /** To be paused before services are stopped. */
  reconcilers: ReconcilerFact[];
}

/** What must be at rest before the source is changed: looked at again before each destructive call. */
export type AtRest = Pick<ClusterFacts, 'services' | 'reconcilers'>;

export interface SourceFacts {
  /** As `SHOW server_version_num`, e.g. 160014. */
  versionNum: number;
  major: number;
  systemIdentifier: string;
  dataDirectory: string;
  hbaFile: string;
  databases: number;
  tables: number;
  /** Sum of pg_database_size. */
  bytes: number;
  roles: number;
  extensions: string[];
  preload: string[];
  encoding: string;
  locale: string;
  /** Milliseconds each probe of the spec took, in the spec's order. */
  probeMs: number[];
}

export interface BlockVolumeFact {
  id: number;
  label: string;
  region: string;
  sizeGb: number;
  encryption: string;
  /** US dollars a month for a volume of this size; null when the provider did not say. */
  monthlyPrice: number | null;
}

export interface RouteFact {
  zone: string;
  pattern: string;
  /** The route that stood on this pattern before: null for none; script null for a route that bypasses Workers. */
  prior: { id: string; script: string | null } | null;
}

/** How to reach a PostgreSQL server: commands run in `pod`; without a host they use its unix socket. */
export interface ServerRef {
  role: 'source' | 'candidate' | 'target';
  pod: PodRef;
  superuser: string;
  /** Set when the server is another pod, reached over TCP with the password in the executing pod's environment. */
  host: string | null;
  port: number;
  /** When it started, of the target: a container that was restarted is the same pod. */
  began?: string;
}

export interface CandidateFact {
  pod: PodRef;
  podIp: string;
  /** `SHOW server_version_num` of the target image. */
  versionNum: number;
  imageId: string;
  compression: 'zstd' | 'gzip';
}

export interface DumpFact {
  /** Path in the candidate. */
  path: string;
  compression: 'zstd' | 'gzip';
  bytes: number;
  sha512: string;
  seconds: number;
}

/** A file in the artifact store; `name` is relative to the upgrade's folder. */
export interface Artifact {
  name: string;
  bytes: number;
  sha512: string;
}

export interface FingerprintFact {
  /** Path in the pod that computed it. */
  path: string;
  bytes: number;
  sha512: string;
  databases: number;
  tables: number;
  rows: number;
  sequences: number;
  largeObjects: number;
  roles: number;
  seconds: number;
}

export interface Comparison {
  equal: boolean;
  /** How many lines differ; the first few are in `differences`. */
  differing: number;
  differences: string[];
}

export interface ImportError {
  sqlstate: string;
  message: string;
  /** psql's line number in the dump, 0 if it gave none. */
  line: number;
}

export interface ImportFact {
  /** Errors on the allow-list: the bootstrap role and database already exist. */
  expected: ImportError[];
  /** All others, at most 20 of them; `unexpectedCount` counts all. */
  unexpected: ImportError[];
  unexpectedCount: number;
  seconds: number;
}

export interface LoginsFact {
  tried: number;
  /** At most 20 of them, each with the server's words; `failedCount` counts all. */
  failed: string[];
  failedCount: number;
}

export interface CloneFact {
  id: number;
  label: string;
  sizeGb: number;
  region: string;
}

export interface NewClaimFact {
  claimUid: string;
  pv: string;
  handle: string;
}

/** One setting that lived inside PGDATA. Refused items need a person; they are in the evidence of gate reopen. */
export interface CarriedItem {
  what: 'hba' | 'ident' | 'setting' | 'file';
  name: string;
  outcome: 'carried' | 'same' | 'refused';
  why: string;
}
