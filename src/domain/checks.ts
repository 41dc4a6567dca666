/** What a check found. FAILED stops the upgrade before anything is changed; WARNING is approved with the plan. */
export type CheckStatus = 'PASSED' | 'INFO' | 'WARNING' | 'FAILED' | 'SKIPPED';

export interface Check {
  /** Stable slug such as `source.prepared-transactions`; documented in docs/checks.md. */
  id: string;
  status: CheckStatus;
  /** One sentence: what was found. Never holds a secret. */
  message: string;
  /** What to do about it; required when FAILED or WARNING. */
  remedy?: string;
}
