/**
 * What is left of the downtime that the spec accepts. It counts what users see: from the first service leaving its count to
 * the last one ready again, waiting for people and all. What is expected to come is read from what was measured: by the
 * rehearsal, then by the trial. Phases that nothing was measured for count as nothing, and are named.
 */
import { milliseconds } from './duration.ts';
import type { PhaseName } from './phases.ts';
import { phaseRow, type DowntimeBudget, type UpgradeStatus } from './state.ts';
import { clock, duration } from './text.ts';

/** Phases in which services are down, in their order. */
const inDowntime: readonly PhaseName[] = [
  'backup',
  'trial',
  'halt',
  'clone',
  'replace',
  'deploy',
  'restore',
  'verify',
  'reopen',
  'resume',
];

/** Seconds that a phase takes at least, as measured; null when nothing was. */
function measured(status: UpgradeStatus, name: PhaseName): number | null {
  const { rehearsal, trial } = status.gathered;
  switch (name) {
    case 'backup':
      return rehearsal?.dump.seconds ?? null;
    case 'trial':
      return rehearsal?.importSeconds ?? null;
    case 'restore':
      return trial?.import.seconds ?? rehearsal?.importSeconds ?? null;
    case 'verify':
      return trial?.fingerprint.seconds ?? null;
    default:
      return null;
  }
}

/** Since when a phase's measured work has been under way, in milliseconds since 1970; null when it has yet to begin. */
function workingSince(status: UpgradeStatus, name: PhaseName): number | null {
  const { state, triedAt } = phaseRow(status, name);
  if (state !== 'running' || triedAt === null) return null;
  if (name !== 'trial') return Date.parse(triedAt);
  // The trial begins beside the backup and waits for its dump.
  const { dump } = status.gathered;
  const backup = phaseRow(status, 'backup').triedAt;
  if (dump === null || backup === null) return null;
  return Math.max(Date.parse(triedAt), Date.parse(backup) + dump.seconds * 1000);
}

interface Expected {
  /** Seconds of phases that have yet to begin, or to begin again. */
  waiting: number;
  running: { seconds: number; since: number }[];
  known: boolean;
  unmeasured: PhaseName[];
}

function expected(status: UpgradeStatus): Expected {
  const result: Expected = { waiting: 0, running: [], known: false, unmeasured: [] };
  for (const name of inDowntime) {
    if (phaseRow(status, name).state === 'done') continue;
    const seconds = measured(status, name);
    if (seconds === null) {
      result.unmeasured.push(name);
      continue;
    }
    result.known = true;
    const since = workingSince(status, name);
    if (since === null) result.waiting += seconds;
    else result.running.push({ seconds, since });
  }
  return result;
}

/** Seconds still expected at `now`, from what was measured; null when nothing of what is left was. */
function expectedRest(status: UpgradeStatus, now: string): DowntimeBudget['rest'] {
  const { waiting, running, known, unmeasured } = expected(status);
  const time = Date.parse(now);
  const left = running.reduce((sum, { seconds, since }) => sum + Math.max(0, seconds - (time - since) / 1000), 0);
  return { seconds: known ? Math.round((waiting + left) * 10) / 10 : null, at: now, unmeasured };
}

/** The budget as of `now`; null while no service is down, after the last is up again, and without `maxDowntime`. */
export function budgetAt(status: UpgradeStatus, now: string): DowntimeBudget | null {
  const longest = status.spec?.maxDowntime;
  const { from, to } = status.downtime;
  if (longest === undefined || from === null || to !== null) return null;
  return {
    longest,
    endsAt: new Date(Date.parse(from) + milliseconds(longest)).toISOString(),
    rest: expectedRest(status, now),
    exceeded: status.budget?.exceeded ?? null,
    reminders: status.budget?.reminders ?? 0,
  };
}

/**
 * When the time left will not cover what is expected any more, in milliseconds since 1970, if nothing changes until then; not
 * before `now`. What is left of a phase that works shrinks as the time does; only one that takes longer than was measured eats
 * into the time for the others.
 */
export function insufficientAt(status: UpgradeStatus, budget: DowntimeBudget, now: string): number {
  const ends = Date.parse(budget.endsAt);
  const time = Date.parse(now);
  const rest = expectedRest(status, now).seconds ?? 0;
  return time + rest * 1000 > ends ? time : ends - expected(status).waiting * 1000;
}

/** Why the time does not suffice, in one sentence. */
export function insufficientText({ longest, endsAt, rest }: DowntimeBudget, now: string): string {
  const left = (Date.parse(endsAt) - Date.parse(now)) / 1000;
  const unknown = rest.unmeasured.length === 0 ? '' : ` (${rest.unmeasured.join(', ')}: not measured)`;
  if (left <= 0) return `Services have been down for longer than the ${longest} that the spec accepts.`;
  return (
    `Of the ${longest} of downtime that the spec accepts ${duration(left)} are left, but at least ` +
    `${duration(rest.seconds ?? 0)} more are expected${unknown}.`
  );
}

/** What the budget comes to, for pages and terminals; null when there is none. */
export function budgetText({ budget }: UpgradeStatus): string | null {
  if (!budget) return null;
  const { longest, endsAt, rest, exceeded } = budget;
  const parts = [
    `The spec accepts ${longest} of downtime, waiting for people and all: until ${clock(endsAt)}.`,
    rest.seconds === null
      ? 'How much longer it takes is unknown: nothing of it was measured.'
      : `At ${clock(rest.at)} at least ${duration(rest.seconds)} more were expected, as measured` +
        `${rest.unmeasured.length === 0 ? '' : `; not measured: ${rest.unmeasured.join(', ')}`}.`,
    ...(exceeded === null ? [] : [`At ${clock(exceeded.at)}: ${exceeded.why}`]),
  ];
  return parts.join(' ');
}
