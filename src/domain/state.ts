/**
 * The whole state of one upgrade: what query `status` returns, what details and reports are made of. Plain JSON without
 * secrets. Times are ISO strings in UTC, as Temporal's history has them; null stands for "not yet" or "nobody knows".
 */
import type { Progress } from '../activities/types.ts';
import type { Check } from './checks.ts';
import type {
  Artifact,
  CandidateFact,
  CarriedItem,
  CloneFact,
  DumpFact,
  FingerprintFact,
  ImportFact,
  LoginsFact,
  NewClaimFact,
  ServerRef,
  World,
} from './facts.ts';
import type { FailureType } from './failures.ts';
import { gates, phases, type GateName, type PhaseName } from './phases.ts';
import type { Back, Writes, WriteCounts } from './old-world.ts';
import type { Plan } from './plan.ts';
import type { Spec } from './spec.ts';
import type { RegisteredUndo } from './undo.ts';

/** `running`: work; `waiting`: at a gate or for the retention time; `parked`: a failure waits for a person. */
export type Stage = 'running' | 'waiting' | 'parked' | 'rolling-back' | 'ended';

export interface PhaseRow {
  name: PhaseName;
  state: 'pending' | 'running' | 'parked' | 'done' | 'stopped' | 'skipped';
  startedAt: string | null;
  endedAt: string | null;
  /** From first start to end, with the time it was parked. */
  seconds: number | null;
  /** How often it was begun, and when the last time. */
  tries: number;
  triedAt: string | null;
  /** What came out of it, in a few words. */
  note: string | null;
}

export interface EvidenceItem {
  name: string;
  value: string | number | boolean | string[];
}

/** What a person must have seen before an answer. Only `facts` are hashed; `shown` are times and forecasts. */
export interface Evidence {
  hash: string;
  facts: EvidenceItem[];
  shown: EvidenceItem[];
}

/** One yes that counts at a gate. */
export interface Approval {
  by: string;
  at: string;
  note: string | null;
}

export interface GateRow {
  name: GateName;
  /** `expired`: its time limit was reached and answered for the person; `closed`: the upgrade stopped before an answer. */
  state: 'pending' | 'open' | 'approved' | 'rejected' | 'expired' | 'closed';
  openedAt: string | null;
  decidedAt: string | null;
  /** The names given in the messages, `policy` or `time limit`. */
  by: string | null;
  note: string | null;
  evidence: Evidence | null;
  /** For the evidence shown, each by somebody else; the gate is approved when there are `needed`. */
  approvals: Approval[];
  needed: number;
  reminders: number;
}

export type ParkAction = 'retry' | 'rollback' | 'abort';

/** What failed, as far as it is known. Never a secret. */
export interface FailedCall {
  /** The activity that was called, and its summary: what it was doing, to what. */
  activity: string | null;
  doing: string | null;
  /** `HTTP 403`, `SQLSTATE 42501`. */
  code: string | null;
}

/** What an answer to a park would do, in lines. */
export interface Prospect {
  action: ParkAction;
  says: string[];
}

/** A failure that retries did not mend. */
export interface Park {
  /** `park-1`, `park-2`, …: named in `resolve`. */
  id: string;
  /** `end`: letting go of Lease and journal. */
  phase: PhaseName | 'rollback' | 'end';
  type: FailureType;
  message: string;
  failed: FailedCall;
  options: ParkAction[];
  /** How the world stands now, and what each answer would do to it; kept up to date until there is one. */
  world: string[];
  prospects: Prospect[];
  /** The spec's own answer, and when it is given if nobody answers before. */
  policy: { answer: 'retry' | 'rollback'; at: string } | null;
  since: string;
  /** The answer, once there is one. */
  action: ParkAction | null;
  by: string | null;
  note: string | null;
}

/** What is left of the downtime that the spec accepts. */
export interface DowntimeBudget {
  /** The spec's `maxDowntime`, and when it is used up. */
  longest: string;
  endsAt: string;
  /** Seconds still expected as of the time `at`, from what was measured; null when nothing was. */
  rest: { seconds: number | null; at: string; unmeasured: PhaseName[] };
  /** When it was said that the time does not suffice, and why. */
  exceeded: { at: string; why: string } | null;
  reminders: number;
}

/** One message that reached the upgrade, whatever became of it. */
export interface Attempt {
  at: string;
  /** `policy`: nobody's, but what the spec says. */
  how: 'signal' | 'update' | 'cancel' | 'policy';
  message: string;
  by: string | null;
  gate: string | null;
  accepted: boolean;
  /** What was answered. */
  says: string;
  note: string | null;
}

/** Why the upgrade stops before its end. */
export interface Ending {
  how: 'rollback' | 'abort' | 'refused';
  why: string;
  by: string | null;
  /** For `refused`: the failure the workflow ends with. */
  type: FailureType | null;
}

export interface TrialFact {
  /** SHA-512 of the dump that was imported. */
  dump: string;
  import: ImportFact;
  fingerprint: FingerprintFact;
  equal: boolean;
  logins: LoginsFact;
}

export interface ObservedFact {
  sessions: number;
  logins: string[];
  transactionsPerSecond: number;
  probeMs: number[];
  /** `<namespace>/<name>: <line>`. */
  problems: string[];
}

/** What phases measured and made. */
export interface Gathered {
  candidate: CandidateFact | null;
  /** Of the candidate's server: how often it was begun anew. */
  generation: number;
  candidateChecks: Check[];
  rehearsal: { dump: DumpFact; importSeconds: number } | null;
  /** Sessions that were ended: the first 20, and how many there were. */
  fence: { at: string; ended: string[]; endedCount: number; hba: string } | null;
  dump: DumpFact | null;
  dumpArtifact: Artifact | null;
  sourceFingerprint: FingerprintFact | null;
  sourceFingerprintArtifact: Artifact | null;
  /** The fingerprint taken after the dump equals the one taken beside it. */
  sourceUnchanged: boolean;
  /** The source's next transaction id before that fingerprint was taken: as long as it stays, nobody has written since. */
  quietAt: string | null;
  trial: TrialFact | null;
  /** When the source was about to be stopped: from then on it cannot be asked any more. */
  haltingAt: string | null;
  clone: CloneFact | null;
  cloneActive: boolean;
  newClaim: NewClaimFact | null;
  target: ServerRef | null;
  /** What the target had counted when it was proven, just before the commit point. */
  opened: WriteCounts | null;
  restored: { import: ImportFact; carried: CarriedItem[] } | null;
  verified: { fingerprint: FingerprintFact; equal: boolean } | null;
  observed: ObservedFact | null;
  missedRuns: string[];
  artifacts: Artifact[];
}

export interface UpgradeResult {
  ok: boolean;
  outcome: 'upgraded' | 'rolled-back';
  why: string | null;
  workflowId: string;
  upgradeId: string;
  strategy: Spec['strategy'];
  /** Versions such as `16.14`; `to` is null when the target image was never asked. */
  from: string | null;
  to: string | null;
  rows: number | null;
  fingerprintsEqual: boolean;
  /** All services, or routes, are as they were before the upgrade. After going back that was looked at: see `back`. */
  servicesRestored: boolean;
  routesRestored: boolean;
  /** Rolled back: the old world as it was and as it is, the volume it is on, what was lost. */
  back: Back | null;
  /** From the first service leaving its count to the last one ready again; null when none was taken down. */
  downtimeSeconds: number | null;
  /** How much of the downtime was waiting at gates. */
  gateWaitSeconds: number;
  phases: { name: PhaseName; seconds: number }[];
  artifacts: Artifact[];
}

/** The answer of query `status`. */
export interface UpgradeStatus {
  workflowId: string;
  upgradeId: string;
  startedAt: string;
  /** Who started it, as the starter says; null when it did not. */
  startedBy: string | null;
  endedAt: string | null;
  stage: Stage;
  phases: PhaseRow[];
  gates: GateRow[];
  /** Null until preflight has resolved it; manifests are listed by name only. */
  spec: Spec | null;
  plan: Plan | null;
  world: World | null;
  gathered: Gathered;
  /** In the order they were registered. */
  undo: RegisteredUndo[];
  park: Park | null;
  /** Parks that were answered. */
  parked: Park[];
  attempts: Attempt[];
  /** Refused messages that had to make room for later ones. */
  attemptsDropped: number;
  /** The newest measured progress of each long step that is under way. */
  progress: (Progress & { at: string })[];
  /** When the fence of the target began to be lifted: from then on rollback would lose writes. */
  committedAt: string | null;
  /** What was written since, when somebody last asked to go back. */
  writes: Writes | null;
  /** What going back came to. */
  back: Back | null;
  downtime: { from: string | null; to: string | null };
  /** Null while services are up, and without `maxDowntime` in the spec. */
  budget: DowntimeBudget | null;
  retentionEndsAt: string | null;
  ending: Ending | null;
  result: UpgradeResult | null;
  /** What people should know, oldest first. */
  notes: string[];
}

export function newStatus(
  workflowId: string,
  upgradeId: string,
  startedAt: string,
  startedBy: string | null = null,
): UpgradeStatus {
  return {
    workflowId,
    upgradeId,
    startedAt,
    startedBy,
    endedAt: null,
    stage: 'running',
    phases: phases.map(({ name }) => ({
      name,
      state: 'pending',
      startedAt: null,
      endedAt: null,
      seconds: null,
      tries: 0,
      triedAt: null,
      note: null,
    })),
    gates: gates.map(({ name }) => ({
      name,
      state: 'pending',
      openedAt: null,
      decidedAt: null,
      by: null,
      note: null,
      evidence: null,
      approvals: [],
      needed: 1,
      reminders: 0,
    })),
    spec: null,
    plan: null,
    world: null,
    gathered: {
      candidate: null,
      generation: 0,
      candidateChecks: [],
      rehearsal: null,
      fence: null,
      dump: null,
      dumpArtifact: null,
      sourceFingerprint: null,
      sourceFingerprintArtifact: null,
      sourceUnchanged: false,
      quietAt: null,
      trial: null,
      haltingAt: null,
      clone: null,
      cloneActive: false,
      newClaim: null,
      target: null,
      opened: null,
      restored: null,
      verified: null,
      observed: null,
      missedRuns: [],
      artifacts: [],
    },
    undo: [],
    park: null,
    parked: [],
    attempts: [],
    attemptsDropped: 0,
    progress: [],
    committedAt: null,
    writes: null,
    back: null,
    downtime: { from: null, to: null },
    budget: null,
    retentionEndsAt: null,
    ending: null,
    result: null,
    notes: [],
  };
}

export function phaseRow(status: UpgradeStatus, name: PhaseName): PhaseRow {
  const row = status.phases.find((phase) => phase.name === name);
  if (!row) throw new RangeError(`no phase ${name}`);
  return row;
}

export function gateRow(status: UpgradeStatus, name: GateName): GateRow {
  const row = status.gates.find((gate) => gate.name === name);
  if (!row) throw new RangeError(`no gate ${name}`);
  return row;
}

/** The gate that waits for an answer; there is never more than one. */
export function openGate(status: UpgradeStatus): GateRow | undefined {
  return status.gates.find((gate) => gate.state === 'open');
}

export function secondsBetween(from: string, to: string): number {
  return Math.max(0, Math.round((Date.parse(to) - Date.parse(from)) / 100) / 10);
}

/** Seconds of waiting at gates inside the downtime; a gate that is still open counts until `now`. */
export function gateWaitSeconds(status: UpgradeStatus, now: string): number {
  const { from, to } = status.downtime;
  if (from === null) return 0;
  let seconds = 0;
  for (const gate of status.gates) {
    if (gate.openedAt === null || gate.openedAt < from) continue;
    if (to !== null && gate.openedAt > to) continue;
    seconds += secondsBetween(gate.openedAt, gate.decidedAt ?? now);
  }
  return Math.round(seconds * 10) / 10;
}

/** Seconds services have been, or were, down; null when none was taken down. */
export function downtimeSeconds(status: UpgradeStatus, now: string): number | null {
  const { from, to } = status.downtime;
  return from === null ? null : secondsBetween(from, to ?? now);
}

const attemptsKept = 200;

/** Appends one message; when the list is full the oldest refused one makes room, never one that had an effect. */
export function recordAttempt(status: UpgradeStatus, attempt: Attempt): void {
  status.attempts.push(attempt);
  if (status.attempts.length <= attemptsKept) return;
  const refused = status.attempts.findIndex(({ accepted }) => !accepted);
  if (refused === -1) return;
  status.attempts.splice(refused, 1);
  status.attemptsDropped += 1;
}
