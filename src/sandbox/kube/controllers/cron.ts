/** The minutes a CronJob's schedule names. */
export type Cron = (at: Date) => boolean;

const macros: Record<string, string> = {
  '@yearly': '0 0 1 1 *',
  '@annually': '0 0 1 1 *',
  '@monthly': '0 0 1 * *',
  '@weekly': '0 0 * * 0',
  '@daily': '0 0 * * *',
  '@midnight': '0 0 * * *',
  '@hourly': '0 * * * *',
};
const months = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const days = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];

/** Reads five fields with lists, ranges, steps and names, or a macro. Throws when it is none of these. UTC. */
export function parseCron(schedule: string): Cron {
  const fields = (macros[schedule] ?? schedule).trim().split(/\s+/);
  const [minute, hour, day, month, weekday] = fields;
  if (fields.length !== 5 || !minute || !hour || !day || !month || !weekday) {
    throw new Error(`expected exactly 5 fields, found ${fields.length}: ${schedule}`);
  }
  const minutes = parseField(minute, 0, 59);
  const hours = parseField(hour, 0, 23);
  const monthDays = parseField(day, 1, 31);
  const yearMonths = parseField(month, 1, 12, months);
  const weekdays = parseField(weekday, 0, 7, days);
  return (at) => {
    const onDay = monthDays.has(at.getUTCDate());
    const onWeekday = weekdays.has(at.getUTCDay()) || (at.getUTCDay() === 0 && weekdays.has(7));
    // When both are given, cron runs on either.
    const either = !day.startsWith('*') && !weekday.startsWith('*');
    return (
      minutes.has(at.getUTCMinutes()) &&
      hours.has(at.getUTCHours()) &&
      yearMonths.has(at.getUTCMonth() + 1) &&
      (either ? onDay || onWeekday : onDay && onWeekday)
    );
  };
}

function parseField(text: string, low: number, high: number, names: string[] = []): Set<number> {
  const result = new Set<number>();
  for (const part of text.split(',')) {
    const found = /^(?:\*|([a-z0-9]+)(?:-([a-z0-9]+))?)(?:\/(\d+))?$/i.exec(part);
    if (found === null) throw new Error(`failed to parse ${part}`);
    const [, first, last, step] = found;
    const from = first === undefined ? low : parseNumber(first, low, names);
    const to = last !== undefined ? parseNumber(last, low, names) : first === undefined || step ? high : from;
    const by = step === undefined ? 1 : Number(step);
    if (from < low || to > high || from > to || by < 1) throw new Error(`${part} is out of range ${low} to ${high}`);
    for (let value = from; value <= to; value += by) result.add(value);
  }
  return result;
}

function parseNumber(text: string, low: number, names: string[]): number {
  const named = names.indexOf(text.toLowerCase());
  const value = named >= 0 ? named + low : Number(text);
  if (!Number.isInteger(value)) throw new Error(`${text} is not a number`);
  return value;
}

const minuteMs = 60_000;

/** The last minute after `after` and not later than `until`, both in ms, that the schedule names. */
export function lastDue(cron: Cron, after: number, until: number): number | undefined {
  // Nobody asks for runs missed more than a week ago.
  const floor = Math.max(after, until - 7 * 24 * 60 * minuteMs);
  for (let at = Math.floor(until / minuteMs) * minuteMs; at > floor; at -= minuteMs) {
    if (cron(new Date(at))) return at;
  }
  return undefined;
}

/** The next minute after `after`, in ms, that the schedule names; when there is none for weeks, a time to ask again. */
export function nextDue(cron: Cron, after: number): number {
  const end = after + 20 * 24 * 60 * minuteMs;
  for (let at = (Math.floor(after / minuteMs) + 1) * minuteMs; at < end; at += minuteMs) {
    if (cron(new Date(at))) return at;
  }
  return end;
}
