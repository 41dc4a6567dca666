const months = ['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
const weekdays = ['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
const macros = new Map([
  ['@yearly', '0 0 1 1 *'],
  ['@annually', '0 0 1 1 *'],
  ['@monthly', '0 0 1 * *'],
  ['@weekly', '0 0 * * 0'],
  ['@daily', '0 0 * * *'],
  ['@midnight', '0 0 * * *'],
  ['@hourly', '0 * * * *'],
]);

/**
 * The last time in (from, to] at which a Kubernetes CronJob's schedule was due; undefined when there was none or the
 * schedule cannot be read. `timeZone` as in the CronJob, UTC without one. Looks at most 40 days back.
 */
export function lastDue(schedule: string, from: Date, to: Date, timeZone = 'UTC'): Date | undefined {
  const fields = (macros.get(schedule.trim().toLowerCase()) ?? schedule).trim().split(/\s+/);
  if (fields.length !== 5) return undefined;
  const minute = parseField(fields[0], 0, 59);
  const hour = parseField(fields[1], 0, 23);
  const day = parseField(fields[2], 1, 31);
  const month = parseField(fields[3], 1, 12, months, 1);
  const weekday = parseField(fields[4], 0, 7, weekdays, 0);
  if (!minute || !hour || !day || !month || !weekday) return undefined;
  if (weekday.has(7)) weekday.add(0);
  const eitherDay = !fields[2]?.startsWith('*') && !fields[4]?.startsWith('*');
  let format: Intl.DateTimeFormat;
  try {
    format = new Intl.DateTimeFormat('en-US', {
      timeZone,
      hourCycle: 'h23',
      minute: 'numeric',
      hour: 'numeric',
      day: 'numeric',
      month: 'numeric',
      weekday: 'short',
    });
  } catch {
    return undefined;
  }
  const start = Math.max(from.getTime(), to.getTime() - 40 * 86_400_000);
  for (let at = Math.floor(to.getTime() / 60_000) * 60_000; at > start; at -= 60_000) {
    const part = Object.fromEntries(format.formatToParts(at).map(({ type, value }) => [type, value]));
    const onDay = day.has(Number(part['day']));
    const onWeekday = weekday.has(weekdays.indexOf((part['weekday'] ?? '').toLowerCase()));
    const rightDay = month.has(Number(part['month'])) && (eitherDay ? onDay || onWeekday : onDay && onWeekday);
    if (!rightDay || !hour.has(Number(part['hour']))) {
      // Nor is it due in any other minute of this hour.
      at -= Number(part['minute']) * 60_000;
    } else if (minute.has(Number(part['minute']))) {
      return new Date(at);
    }
  }
  return undefined;
}

function parseField(
  field: string | undefined,
  low: number,
  high: number,
  names: string[] = [],
  first = 0,
): Set<number> | undefined {
  const values = new Set<number>();
  for (const part of (field ?? '').toLowerCase().split(',')) {
    const match = /^(\*|\?|[a-z]{3}|\d+)(?:-([a-z]{3}|\d+))?(?:\/(\d+))?$/.exec(part);
    if (match === null) return undefined;
    const [, from = '', to, step] = match;
    const number = (text: string) => (/^\d+$/.test(text) ? Number(text) : names.indexOf(text) + first);
    const all = from === '*' || from === '?';
    const begin = all ? low : number(from);
    const end = to !== undefined ? number(to) : all || step !== undefined ? high : begin;
    if (begin < low || end > high || begin > end || Number(step ?? 1) === 0) return undefined;
    for (let value = begin; value <= end; value += Number(step ?? 1)) values.add(value);
  }
  return values;
}
