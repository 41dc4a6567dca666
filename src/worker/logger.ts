import { DefaultLogger, type LogEntry, type LogLevel } from '@temporalio/worker';
import { pino } from 'pino';

const levels = {
  TRACE: 'trace',
  DEBUG: 'debug',
  INFO: 'info',
  WARN: 'warn',
  ERROR: 'error',
} as const satisfies Record<LogLevel, string>;

/**
 * The logger of the worker, its activities, workflows and Temporal's core: one line an entry on stderr, as JSON or for
 * people. Every line goes through `clean`, whatever an entry holds.
 */
export function createLogger(options: {
  json: boolean;
  level: LogLevel;
  clean: (text: string) => string;
}): DefaultLogger {
  const { clean } = options;
  const log = pino(
    { level: 'trace', base: null, messageKey: 'message', formatters: { level: (label) => ({ level: label }) } },
    { write: (line: string) => process.stderr.write(clean(line)) },
  );
  return new DefaultLogger(options.level, (entry) => {
    const { level, message, meta } = entry;
    if (options.json) log[levels[level]](plain(meta), message);
    else process.stderr.write(clean(`${readable(entry)}\n`));
  });
}

/** What a person wants to see of an entry: most of Temporal's attributes repeat what the Web UI shows. */
function readable({ level, message, meta, timestampNanos }: LogEntry): string {
  const time = new Date(Number(timestampNanos / 1_000_000n)).toISOString().slice(11, 19);
  const known = plain(meta);
  const about = ['activityType', 'workflowId', 'error'].flatMap((key) => {
    const value = known[key];
    return value === undefined ? [] : [`${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`];
  });
  const problem = level === 'WARN' || level === 'ERROR' ? `${level} ` : '';
  return [`${time} ${problem}${message}`, ...about].join('  ');
}

/** Errors as their messages: stack traces and causes of SDKs carry requests and headers. BigInts as text, for JSON. */
function plain(meta: LogEntry['meta']): Record<string, unknown> {
  const entries = Object.entries(meta ?? {}).map(([key, value]): [string, unknown] => {
    if (value instanceof Error) return [key, `${value.name}: ${value.message}`];
    if (typeof value === 'bigint') return [key, String(value)];
    return [key, value];
  });
  return Object.fromEntries(entries);
}
