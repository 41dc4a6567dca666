/** The small languages that people and servers write: times, sizes, schedules, patterns, versions, messages, specs. */
import * as fc from 'fast-check';
import { expect } from 'vitest';
import { bytesOf } from '../../src/activities/kubernetes/quantity.ts';
import { retryAfterMs } from '../../src/activities/retry-after.ts';
import { specActivities } from '../../src/activities/spec.ts';
import { lastDue } from '../../src/domain/cron.ts';
import { decide, readMessage, type MessageName } from '../../src/domain/decide.ts';
import { parseDuration } from '../../src/domain/duration.ts';
import { mayHoldSecret, redact } from '../../src/domain/redact.ts';
import {
  decidingPattern,
  overridingPatterns,
  parseRoutePattern,
  patternInZone,
} from '../../src/domain/route-patterns.ts';
import { psqlErrors } from '../../src/domain/sqlstate.ts';
import { newStatus } from '../../src/domain/state.ts';
import { majorOfImage } from '../../src/domain/versions.ts';
import { damaged, explained, fuzz, nearly, strangeJson, strangeText } from './fuzz.ts';

const either = (right: string[]) => fc.oneof(nearly(fc.constantFrom(...right)), strangeText);

fuzz('durations', either(['90s', '1.5h', '7d', '100ms']), 1000, (text) => {
  const ms = parseDuration(text);
  if (ms !== undefined) expect(ms >= 0 && ms <= 3650 * 86_400_000).toBe(true);
});

fuzz('sizes', either(['10Gi', '25G', '1e9', '1.5Mi']), 1000, (text) => {
  const bytes = bytesOf(text);
  if (bytes !== undefined) expect(Number.isFinite(bytes) && bytes >= 0).toBe(true);
});

fuzz('Retry-After', either(['7', 'Wed, 21 Oct 2026 07:28:00 GMT', '0.5']), 1000, (text) => {
  const ms = retryAfterMs(text, 1234);
  expect(ms).toBeGreaterThanOrEqual(1000);
  expect(ms).toBeLessThanOrEqual(900_000);
});

const fields = fc.array(either(['*', '*/5', '1-5', '0', 'mon-fri', '1,2,3', '*/00', 'jan', '?']), {
  minLength: 4,
  maxLength: 6,
});
fuzz(
  'schedules of CronJobs',
  fc.tuple(
    fc.oneof(
      fields.map((all) => all.join(' ')),
      strangeText,
    ),
    fc.date(),
    fc.nat(40),
    either(['Europe/Berlin']),
  ),
  1500,
  ([schedule, from, days, zone]) => {
    const to = new Date(from.getTime() + days * 86_400_000);
    const due = lastDue(schedule, from, to, zone);
    if (due !== undefined) expect(due.getTime() > from.getTime() && due.getTime() <= to.getTime()).toBe(true);
  },
  [
    ['*/00 * * * *', new Date('2026-01-01T00:00:00Z'), 1, 'UTC'],
    ['0 0 30 2 *', new Date('2026-01-01T00:00:00Z'), 40, 'Europe/Berlin'],
  ],
);

const patterns = either(['*example.com/*', 'https://www.example.com/a/*', 'example.com/images*', '*.example.com/']);
fuzz(
  'route patterns',
  fc.tuple(patterns, fc.array(patterns, { maxLength: 5 }), fc.webUrl()),
  2000,
  ([one, others, url]) => {
    const parsed = parseRoutePattern(one);
    if (parsed !== undefined) expect(typeof patternInZone(parsed, 'example.com')).toBe('boolean');
    const deciding = decidingPattern(others, new URL(url));
    if (deciding !== undefined) expect(others).toContain(deciding);
    for (const other of overridingPatterns(one, others)) expect(others).toContain(other);
  },
);

fuzz('names of images', either(['postgres:18', 'registry:5000/team/pg:v17.2-alpine@sha256:00']), 1000, (text) => {
  const major = majorOfImage(text);
  if (major !== null) expect(major >= 0 && major < 100).toBe(true);
});

const secretive = [
  'password=hunter2hunter2',
  'postgres://u:hunter2hunter2@h/d',
  'Authorization: Bearer hunter2hunter2',
];
fuzz(
  'texts that hold secrets',
  fc.tuple(strangeText, fc.constantFrom(...secretive), strangeText),
  1500,
  ([before, secret, after]) => {
    expect(redact(`${before} ${secret} ${after}`)).not.toContain('hunter2');
    mayHoldSecret(before, after);
  },
  [
    ['a.'.repeat(100_000), 'password=hunter2hunter2', 'password'.repeat(20_000)],
    ['a-b+'.repeat(50_000), 'password=hunter2hunter2', `'${"''".repeat(60_000)}`],
  ],
);

const said = [
  'psql:<stdin>:12: ERROR:  42710: role "shop" already exists\nLOCATION:  CreateRole, user.c:330\n',
  'WARNING:  01000: something\nDETAIL:  more\nHINT:  less\n',
  'psql: error: connection to server on socket "/run/x" failed: FATAL:  role "x" does not exist\n',
  'pgleap: the dump ended\n',
];
fuzz(
  'what psql says on stderr',
  fc.tuple(fc.array(either(said), { maxLength: 6 }), fc.integer({ min: 1, max: 5000 })),
  2000,
  ([parts, cut]) => {
    const text = parts.join('');
    const whole = read(text, text.length + 1);
    // It comes in pieces of some KB.
    expect(read(text, Math.max(cut, Math.ceil(text.length / 100)))).toEqual(whole);
    for (const { sqlstate, message, line } of whole) {
      expect(sqlstate).toMatch(/^([0-9A-Z]{5}|\?)$/);
      expect(message.length).toBeLessThanOrEqual(500);
      expect(Number.isFinite(line)).toBe(true);
    }
  },
);

function read(text: string, piece: number) {
  const found: { sqlstate: string; message: string; line: number }[] = [];
  const parser = psqlErrors((error) => found.push({ ...error }));
  for (let at = 0; at < text.length; at += piece) parser.push(text.slice(at, at + piece));
  parser.end();
  return found;
}

const messages: Record<MessageName, object> = {
  approve: { gate: 'begin', by: 'ann', evidence: 'abc', note: 'fine' },
  reject: { gate: 'replace', by: 'ann', evidence: 'abc' },
  resolve: { park: 'park-1', action: 'retry', by: 'ann' },
  rollback: { by: 'ann', acceptLostWrites: true },
};
const names: MessageName[] = ['approve', 'reject', 'resolve', 'rollback'];
fuzz(
  'messages to an upgrade',
  fc
    .constantFrom(...names)
    .chain((name) => fc.tuple(fc.constant(name), fc.oneof(damaged(messages[name]), strangeJson))),
  3000,
  ([name, input]) => {
    const status = newStatus('pgleap/a/b', 'u00000001', '2026-01-01T00:00:00Z');
    const before = structuredClone(status);
    const message = readMessage(name, input);
    if (typeof message === 'string') expect(message).toContain(name);
    else expect(decide(status, message).says.length).toBeGreaterThan(10);
    expect(status).toEqual(before);
  },
);

const spec = {
  database: { namespace: 'databases', manifests: [{ name: 'a.yaml', text: 'kind: Pod' }] },
  target: { image: 'postgres:18', patch: { spec: { template: {} } } },
  services: ['web/site', { kind: 'CronJob', namespace: 'web', name: 'job', readOnly: true }],
  maintenance: {
    zone: '0'.repeat(32),
    script: 'maintenance',
    patterns: ['example.com/*'],
    probes: [{ url: 'https://example.com/', host: 'example.com' }],
  },
  gates: { begin: 'auto', replace: { policy: 'manual', timeLimit: 'never', remind: '5m' } },
  maxDowntime: '30m',
  probes: [{ database: 'shop', query: 'SELECT 1' }],
};
fuzz('specs as a starter sends them', fc.oneof(damaged(spec), strangeJson), 3000, async (input) => {
  await explained(() => specActivities.resolveSpec(input));
});
