/** The phases and gates of an upgrade, as data. Every list of them in code, documents and UI comes from here. */

export const phases = [
  { name: 'preflight', runbook: '', says: 'read everything that can fail, make the plan and its hash' },
  {
    name: 'prepare',
    runbook: '',
    says: 'start the candidate and its scratch volume, retain the original volume, begin the journal',
  },
  { name: 'rehearse', runbook: '', says: 'with services up: dump, import into the candidate, time it' },
  { name: 'maintain', runbook: '1', says: 'send visitors to the maintenance worker' },
  { name: 'quiesce', runbook: '2', says: 'services to 0, CronJobs suspended, source fenced' },
  { name: 'backup', runbook: '3, 4', says: 'dump, checksum, copy to the artifact store' },
  { name: 'trial', runbook: '5', says: 'import that dump into the candidate and compare fingerprints' },
  { name: 'halt', runbook: '7', says: 'source to 0, volume detached' },
  { name: 'clone', runbook: '8', says: 'clone the original volume at the provider' },
  { name: 'replace', runbook: '9, 10', says: 'a new empty volume under the old claim’s name; the old one stays' },
  { name: 'deploy', runbook: '11, 12', says: 'start the target on the new volume, fenced' },
  { name: 'restore', runbook: '13, 14', says: 'copy the dump in, import it, carry settings over' },
  { name: 'verify', runbook: '15', says: 'classify every error, compare fingerprints' },
  {
    name: 'reopen',
    runbook: '16',
    says: 'restart the target with its lasting settings and lift its fence: the commit point',
  },
  { name: 'resume', runbook: '16', says: 'services back to their exact counts' },
  { name: 'observe', runbook: '17', says: 'services ready, reconnected and exchanging data' },
  { name: 'unmaintain', runbook: '', says: 'routes exactly as they were, CronJobs on again' },
  { name: 'report', runbook: '', says: 'write the report' },
  { name: 'cleanup', runbook: '', says: 'after the retention time: remove clone, old volume and scratch' },
] as const;

export type PhaseName = (typeof phases)[number]['name'];

/** A gate stands before the phase named in `before`. */
export const gates = [
  { name: 'begin', before: 'maintain', asks: 'Take services down and upgrade, as planned?' },
  { name: 'replace', before: 'replace', asks: 'The backup is proven. Replace the volume?' },
  { name: 'reopen', before: 'reopen', asks: 'The target equals the source. Open it for writing?' },
  { name: 'cleanup', before: 'cleanup', asks: 'Remove the clone, the original volume and the scratch volume?' },
] as const satisfies readonly { name: string; before: PhaseName; asks: string }[];

export type GateName = (typeof gates)[number]['name'];

/** What is asked instead when the spec goes without a clone. */
export const gatesWithoutClone: Partial<Record<GateName, string>> = {
  replace: 'The backup is proven; there is no clone. Replace the volume?',
  cleanup: 'Remove the original volume and the scratch volume? There is no clone.',
};
