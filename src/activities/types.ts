/**
 * The contract between workflows (decisions) and activities (every I/O). Types only: workflows import nothing else from here.
 * Each activity takes one object and is idempotent: it observes, converges, verifies. Those that change something outside
 * take the `world` and compare it first. Long ones heartbeat a `Progress`.
 */
import type {
  Artifact,
  AtRest,
  BlockVolumeFact,
  CandidateFact,
  CarriedItem,
  ClaimFact,
  CloneFact,
  ClusterFacts,
  Comparison,
  DatabaseFact,
  DumpFact,
  FingerprintFact,
  ImportFact,
  LoginsFact,
  NewClaimFact,
  PodRef,
  ReconcilerFact,
  RouteFact,
  ServerRef,
  ServiceFact,
  SourceFacts,
  VolumeFact,
  WorkloadRef,
  World,
} from '../domain/facts.ts';
import type { Check } from '../domain/checks.ts';
import type { Compared, OldWorld, Rebound, SourceSeen, WriteCounts, Writes } from '../domain/old-world.ts';
import type { Spec } from '../domain/spec.ts';
import type { UpgradeStatus } from '../domain/state.ts';
import type { RegisteredUndo, Undo } from '../domain/undo.ts';

/** Heartbeat of a long activity, and the argument of the `progress` signal. Measured, never guessed. */
export interface Progress {
  /** What is being done, e.g. `dump`. */
  what: string;
  done: number;
  /** null when nobody knows. */
  total: number | null;
  unit: 'bytes' | 'rows' | 'tables' | 'seconds';
}

/** Read-only: nothing outside changes. Objects that do not exist become FAILED checks, not errors. */
export interface PreflightActivities {
  /** Validates whatever the starter sent and fills defaults in. Throws SpecInvalid with every problem listed. */
  resolveSpec(input: unknown): Promise<Spec>;
  /** facts is null when a FAILED check left them incomplete. */
  inspectCluster(arg: { spec: Spec }): Promise<{ facts: ClusterFacts | null; checks: Check[] }>;
  inspectSource(arg: { spec: Spec; database: DatabaseFact }): Promise<{ facts: SourceFacts | null; checks: Check[] }>;
  inspectVolume(arg: { volume: VolumeFact }): Promise<{ facts: BlockVolumeFact | null; checks: Check[] }>;
  inspectRoutes(arg: { maintenance: Spec['maintenance'] }): Promise<{ routes: RouteFact[]; checks: Check[] }>;
  /** The queue of the worker that keeps artifacts, so that all of one upgrade's files lie in one folder. */
  artifactStore(): Promise<{ queue: string; folder: string }>;
}

export interface ClusterActivities {
  /** Takes the Lease `pgleap-<workload>`; throws Locked naming its holder. Taking one's own again succeeds. */
  takeLease(arg: { world: World; workload: WorkloadRef; workflowId: string }): Promise<void>;
  /** Creates the ConfigMap `pgleap-<upgradeId>-journal` or adopts one that carries this upgrade's id. */
  beginJournal(arg: { world: World; workflowId: string; planHash: string; summary: string }): Promise<void>;
  /** Keeps what is known of the old world in the journal, in the place of what was known before. */
  journalOld(arg: { world: World; old: OldWorld }): Promise<void>;
  /**
   * null when there is no journal. A workflow that was reset knows less than its journal. Answers in the histories of older
   * versions have no `undos`.
   */
  readJournal(arg: {
    world: World;
  }): Promise<{ committedAt: string | null; outcome: string | null; undos?: RegisteredUndo[] } | null>;
  /** Appends undos, in this order and in one write, before their changes are made. The same id again replaces it in place. */
  journalUndo(arg: { world: World; undos: Undo[] }): Promise<void>;
  /** Marks one undo as done, so that a second rollback does not repeat it. */
  journalUndone(arg: { world: World; undoId: string }): Promise<void>;
  /** Notes that the commit point is about to be passed, from where on undoing would lose what services write. Resolves with when it first was. */
  journalCommit(arg: { world: World }): Promise<string>;
  /** Notes that somebody accepted to lose what was written since the commit point: from here on the way is back. */
  /** Going back after the commit point is begun; later once more, with what is `lost` by it. */
  journalBack(arg: { world: World; lost?: Writes }): Promise<void>;
  closeJournal(arg: { world: World; outcome: string }): Promise<void>;

  setReclaimPolicy(arg: { world: World; volume: VolumeFact; policy: 'Retain' }): Promise<void>;
  /** Scratch claim `pgleap-<upgradeId>-scratch`, storage class of the original claim. Resolves when it exists. */
  createScratch(arg: { world: World; claim: ClaimFact; bytes: number }): Promise<void>;
  /**
   * Pod `pgleap-<upgradeId>-candidate` of the target image; resolves when its server answers on its socket. PGDATA is the
   * folder `pgdata-<generation>` of the scratch volume: another generation replaces the pod and starts with an empty
   * server again, while `/pgleap` with its dumps stays.
   */
  createCandidate(arg: {
    world: World;
    spec: Spec;
    database: DatabaseFact;
    source: SourceFacts;
    generation: number | string;
  }): Promise<CandidateFact>;

  /** Pauses what would start services again, and waits until it has stopped acting. */
  pauseReconciler(arg: { world: World; reconciler: ReconcilerFact }): Promise<void>;
  /** Reads it all again. Throws NotStopped naming a service that runs again, or may, and who did that. */
  seeAtRest(arg: { world: World; atRest: AtRest }): Promise<void>;
  /** Sets a workload to 0 and waits until its pods are gone; kills nothing. Says its count before; undefined: it is gone. */
  stopService(arg: { world: World; service: ServiceFact }): Promise<{ had: number } | undefined>;
  /** `wasOn`: when it was called; missing in the histories of older versions. */
  suspendCronJob(arg: { world: World; service: ServiceFact }): Promise<{ runningJobs: number; wasOn?: boolean }>;
  /** Waits until all replicas are ready again (all for Deployment and StatefulSet). */
  startService(arg: { world: World; service: ServiceFact }): Promise<{ at: string }>;
  resumeCronJob(arg: { world: World; service: ServiceFact }): Promise<{ missed: string | null }>;
  /** Cluster objects of the old world beside what they are now. Changes nothing. */
  compareOldWorld(arg: { world: World; old: OldWorld }): Promise<Compared[]>;
  observeService(arg: { world: World; service: ServiceFact; since: string }): Promise<{
    ready: boolean;
    restarts: number;
    /** Suspicious log lines, redacted, at most 5. */
    logProblems: string[];
  }>;

  /** Scales the database workload to 0; resolves when its pods and the volume's VolumeAttachment are gone. Looks first as seeAtRest. */
  haltDatabase(arg: { world: World; database: DatabaseFact; atRest: AtRest }): Promise<void>;
  /**
   * Deletes the claim (uid precondition), waits for the PV to be Released, creates the new one, waits for Bound. Looks first
   * as seeAtRest. Throws ApprovalLapsed when the claim would have to be deleted after `approvedUntil`; null, or missing in the
   * histories of older versions: no limit.
   */
  replaceClaim(arg: {
    world: World;
    database: DatabaseFact;
    minBytes: number;
    atRest: AtRest;
    approvedUntil?: string | null;
  }): Promise<NewClaimFact>;
  /** Patches the template (image, spec's patch, PGDATA, fence and fast-load arguments, /pgleap mount) and scales to 1. */
  deployTarget(arg: { world: World; spec: Spec; database: DatabaseFact; source: SourceFacts }): Promise<ServerRef>;
  /** Empties PGDATA of the fenced target, on the new claim only, and lets its server begin anew: before a repeated restore. */
  emptyTarget(arg: {
    world: World;
    database: DatabaseFact;
    claim: NewClaimFact;
    target: ServerRef;
  }): Promise<ServerRef>;
  /** Patches the template to its lasting form: the commit point. Resolves when the server takes TCP logins and is synced. */
  openTarget(arg: { world: World; database: DatabaseFact }): Promise<ServerRef>;
  /** Removes what the fenced target left on the new volume beside PGDATA, and makes the rest durable. Called before openTarget. */
  sweepTarget(arg: { world: World; target: ServerRef }): Promise<void>;
}

export interface PostgresActivities {
  /** Checks that need the target image: login from the candidate, version, extensions, settings, locales, preload. */
  checkCandidate(arg: {
    world: World;
    source: ServerRef;
    candidate: ServerRef;
    candidateIp: string;
    facts: SourceFacts;
  }): Promise<Check[]>;
  /** Replaces pg_hba.conf by a fence (original kept beside it), reloads, ends other sessions and names the first 20. */
  fenceSource(arg: {
    world: World;
    source: ServerRef;
    hbaFile: string;
    candidateIp: string;
    readOnlyLogins: string[];
  }): Promise<{
    ended: string[];
    endedCount: number;
    at: string;
    /** SHA-256 of the file that the fence stands in for. */
    hba: string;
  }>;
  /** Detached pg_dumpall in the candidate from the source; `name` tells several of one upgrade apart. */
  dump(arg: {
    world: World;
    from: ServerRef;
    compression: 'zstd' | 'gzip';
    estimateBytes: number;
    name: string;
  }): Promise<DumpFact>;
  /** Detached; `name` tells several of one server apart. */
  fingerprint(arg: { world: World; server: ServerRef; name: string }): Promise<FingerprintFact>;
  /** Detached import, into an empty server, of a dump file that lies in its pod. A lost job is not begun again here: JobLost. */
  importDump(arg: {
    world: World;
    server: ServerRef;
    path: string;
    compression: 'zstd' | 'gzip';
    sha512: string;
    name: string;
  }): Promise<ImportFact>;
  /** Every login role that may connect tries to, in `server`; the first 20 that cannot are named. */
  tryLogins(arg: { world: World; server: ServerRef }): Promise<LoginsFact>;
  analyze(arg: { world: World; server: ServerRef }): Promise<{ seconds: number }>;
  /** HBA, ident, ALTER SYSTEM settings and files of PGDATA, saved from the source while it runs. Secrets stay in the pod. */
  saveSettings(arg: {
    world: World;
    source: ServerRef;
    sourceFacts: SourceFacts;
  }): Promise<{ settings: SavedSettings }>;
  carrySettings(arg: { world: World; target: ServerRef; settings: SavedSettings }): Promise<{ items: CarriedItem[] }>;
  /** The transaction id the server gives next: two equal answers mean that nobody wrote in between. */
  nextTransaction(arg: { server: ServerRef }): Promise<string>;
  /** The old server in its pod of now. Changes nothing. */
  seeSource(arg: { world: World; database: DatabaseFact }): Promise<SourceSeen>;
  /** What a server has counted until now. */
  countWrites(arg: { server: ServerRef }): Promise<WriteCounts>;
  /** What was written to the open target since `opened`, and by whom. Unknown parts are null: a broken target is one reason to go back. */
  lostWrites(arg: {
    world: World;
    database: DatabaseFact;
    opened: WriteCounts | null;
    namespaces: string[];
  }): Promise<Writes>;
  /** Fences the open target for good and ends all sessions; does nothing when its server does not run. */
  closeTarget(arg: { world: World; database: DatabaseFact }): Promise<void>;
  /** Client sessions other than pgleap's own: the first 20, and how many more. */
  otherSessions(arg: { server: ServerRef }): Promise<string[]>;
  /** Sessions per login and transactions over a few seconds, and each probe's milliseconds. */
  observeDatabase(arg: { spec: Spec; server: ServerRef }): Promise<{
    sessions: number;
    logins: string[];
    transactionsPerSecond: number;
    probeMs: number[];
  }>;
}

/** Text of configuration that lived inside PGDATA. `secret` items are refused, never stored. */
export interface SavedSettings {
  hba: string | null;
  ident: string | null;
  /** ALTER SYSTEM settings by name; values of secret-bearing settings are left out and named in `refused`. */
  autoConf: Record<string, string>;
  refused: { name: string; why: string }[];
}

export interface ProviderActivities {
  awaitDetached(arg: { world: World; volume: BlockVolumeFact }): Promise<void>;
  /** Starts the clone or finds this upgrade's own; does not wait for `active`. */
  startClone(arg: { world: World; volume: BlockVolumeFact; label: string }): Promise<CloneFact>;
  awaitClone(arg: { world: World; clone: CloneFact }): Promise<void>;
}

export interface RouteActivities {
  /** Points the route at the maintenance worker; refuses when it is neither `prior` nor already ours. */
  setRoute(arg: { world: World; route: RouteFact; script: string }): Promise<void>;
  /** Polls the probe URLs until all answer as expected several times in a row. */
  verifyRoutes(arg: { maintenance: NonNullable<Spec['maintenance']>; expect: 'maintenance' | 'normal' }): Promise<{
    seconds: number;
  }>;
}

/** Activities that need the artifact folder: they run on that worker's own queue. */
export interface ArtifactActivities {
  /** Chunked, resumable, each chunk hashed on both sides; the whole verified against `sha512`. */
  copyOut(arg: {
    world: World;
    pod: PodRef;
    path: string;
    bytes: number;
    sha512: string;
    name: string;
  }): Promise<Artifact>;
  copyIn(arg: { world: World; artifact: Artifact; pod: PodRef; path: string }): Promise<{ seconds: number }>;
  compareFingerprints(arg: { world: World; a: Artifact; b: Artifact }): Promise<Comparison>;
  /** The operator's manifests with image, patch and lasting settings put in, comments kept. */
  editManifest(arg: { world: World; spec: Spec; database: DatabaseFact; source: SourceFacts }): Promise<Artifact[]>;
  /** Writes report.html and report.json from the workflow's state. */
  writeReport(arg: { world: World; state: UpgradeStatus }): Promise<Artifact[]>;
}

export interface NotifyActivities {
  /** Best effort: posts one line to the configured webhook, or does nothing. */
  notify(arg: { upgradeId: string; kind: 'phase' | 'gate' | 'remind' | 'park' | 'end'; text: string }): Promise<void>;
}

/** What rollback and cleanup call. Each is also callable without Temporal. */
export interface UndoActivities {
  restoreReclaimPolicy(arg: { world: World; volume: VolumeFact }): Promise<void>;
  removeCandidate(arg: { world: World }): Promise<void>;
  removeScratch(arg: { world: World }): Promise<void>;
  releaseLease(arg: { world: World; workload: WorkloadRef }): Promise<void>;
  restoreRoute(arg: { world: World; route: RouteFact; script: string }): Promise<void>;
  restoreService(arg: { world: World; service: ServiceFact }): Promise<void>;
  restoreCronJob(arg: { world: World; service: ServiceFact }): Promise<{ missed: string | null }>;
  /** Sets what pauseReconciler changed exactly as it was. One that was switched on meanwhile is left as it is. */
  resumeReconciler(arg: { world: World; reconciler: ReconcilerFact }): Promise<void>;
  liftSourceFence(arg: { world: World; database: DatabaseFact; hbaFile: string }): Promise<void>;
  /** The source at 1 again on its own volume; resolves when it answers. */
  restartSource(arg: { world: World; database: DatabaseFact }): Promise<void>;
  /**
   * Claim of the old name bound to the original PV again; where that is gone to a new PV on the original volume, where that is
   * gone to one on the clone. The workload is at 0 then. The new volume goes, unless the journal says that it was opened;
   * its driver is not waited for: compareOldWorld sees that it is gone.
   * `volume` null: the upgrade went without a clone, and the provider is not asked.
   */
  rebindOriginal(arg: {
    world: World;
    database: DatabaseFact;
    volume: BlockVolumeFact | null;
    cloneLabel: string;
  }): Promise<Rebound>;
  /** Workload at 0 and its pod template as it was before. */
  restoreTemplate(arg: { world: World; database: DatabaseFact }): Promise<void>;
  removeClone(arg: { world: World; source: BlockVolumeFact; label: string }): Promise<void>;
}

export interface CleanupActivities {
  /**
   * Deletes the original PV and its volume: only when Released, with the recorded uid and handle. `volume` null: the CSI
   * driver deletes it, by the reclaim policy Delete.
   */
  removeOriginal(arg: { world: World; database: DatabaseFact; volume: BlockVolumeFact | null }): Promise<void>;
}

/** All that the shared queue serves. */
export type SharedActivities = PreflightActivities &
  ClusterActivities &
  PostgresActivities &
  ProviderActivities &
  RouteActivities &
  NotifyActivities &
  UndoActivities &
  CleanupActivities;
