/**
 * Every way an activity or workflow fails, as the `type` of an ApplicationFailure. A type not listed here is a defect.
 * `retry: false` means the activity throws it non-retryable: trying again without a person cannot help.
 */
export const failures = {
  SpecInvalid: { retry: false, says: 'the spec is not valid' },
  PreflightRefused: { retry: false, says: 'a preflight or prepare check FAILED' },
  WrongWorld: { retry: false, says: 'the cluster or an object is not the one of the plan' },
  Locked: { retry: false, says: 'another upgrade of this database holds the lease' },
  WrongWorkflowId: { retry: false, says: 'the workflow id is not pgleap/<namespace>/<workload>' },
  AccessDenied: { retry: false, says: 'a token or credential was refused, or the artifact folder may not be written' },
  NotFound: { retry: false, says: 'a named object does not exist' },
  Refused: { retry: false, says: 'the API refused the request as invalid' },
  Conflict: { retry: true, says: 'somebody else changed the object at the same time' },
  Unreachable: { retry: true, says: 'a system did not answer' },
  RateLimited: { retry: true, says: 'a system asked to slow down' },
  StreamBroken: { retry: true, says: 'a connection into a pod broke' },
  ChecksumMismatch: { retry: true, says: 'bytes arrived changed' },
  JobLost: { retry: true, says: 'a detached command vanished without an exit code' },
  ScratchLost: { retry: false, says: 'what lay at /pgleap in a pod is gone' },
  PodLost: { retry: false, says: 'a pod is gone, or another stands in its place' },
  ServerLost: { retry: false, says: 'a PostgreSQL server went away under a command' },
  CommandFailed: { retry: false, says: 'a command in a pod failed' },
  ImportErrors: { retry: false, says: 'the import met errors that are not on the allow-list' },
  FingerprintDiffers: { retry: false, says: 'source and target are not equal' },
  SourceNotQuiet: { retry: true, says: 'the source is still being written, or somebody is still connected' },
  NotReady: { retry: true, says: 'a workload did not become ready' },
  NotStopped: { retry: true, says: 'a workload did not stop in its grace period' },
  NoSpace: { retry: false, says: 'a volume is full' },
  ArtifactMissing: { retry: false, says: 'the artifact folder is gone, or does not hold what was recorded' },
  ApprovalLapsed: { retry: false, says: 'an approval lapsed before what it was given for was begun' },
  MessageRefused: { retry: false, says: 'an approval or other message was refused; nothing changed' },
  RolledBack: { retry: false, says: 'the upgrade was rolled back' },
  Aborted: { retry: false, says: 'the upgrade was aborted; the journal stays' },
} as const satisfies Record<string, { retry: boolean; says: string }>;

export type FailureType = keyof typeof failures;
