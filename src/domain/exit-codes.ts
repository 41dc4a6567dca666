/**
 * The exit codes of every `pgleap` command, as data: `pgleap --help`, README.md and the tests read this table. Scripts
 * depend on the numbers, so they never change their meaning.
 */
export const exitCodes = {
  ok: { code: 0, says: 'done; for `watch`: the upgrade ended well' },
  failed: { code: 1, says: 'something unexpected; the message says what' },
  usage: { code: 2, says: 'unknown command or option, or a file that cannot be read' },
  invalidSpec: { code: 3, says: 'the spec is not valid; every problem is listed with its line' },
  noTemporal: { code: 4, says: 'Temporal’s server does not answer, or refuses the credentials' },
  noWorker: { code: 5, says: 'no pgleap worker answers on the task queue' },
  notFound: { code: 6, says: 'there is no such upgrade' },
  alreadyRunning: { code: 7, says: 'an upgrade of this database runs already' },
  refused: { code: 8, says: 'the upgrade refused the message, e.g. wrong gate or stale evidence' },
  checksFailed: { code: 9, says: 'a check FAILED; nothing was changed, or what was prepared is put back' },
  rolledBack: { code: 10, says: 'the upgrade ended in the old world: rolled back or rejected' },
  upgradeFailed: {
    code: 11,
    says: 'the upgrade was aborted, terminated or failed; what it had changed stands in its journal, which stays',
  },
  configuration: { code: 12, says: 'the worker’s environment is incomplete or wrong' },
  unreachable: { code: 13, says: 'the Kubernetes cluster or a provider does not answer or refuses the credentials' },
  differs: {
    code: 14,
    says: '`recover` is done, but something is not as it was, or could not be looked at; it says what',
  },
  interrupted: { code: 130, says: 'ended by Ctrl-C; the upgrade itself goes on' },
} as const satisfies Record<string, { code: number; says: string }>;

export type ExitName = keyof typeof exitCodes;

/** An error that the user can mend: printed as one paragraph without a stack trace, and ends with its exit code. */
export class UserError extends Error {
  override readonly name = 'UserError';
  readonly exit: ExitName;

  constructor(exit: ExitName, message: string, options?: ErrorOptions) {
    super(message, options);
    this.exit = exit;
  }
}
