import { expect, test } from 'vitest';
import { mayHoldSecret, redact } from '../../src/domain/redact.ts';

test.each([
  'could not connect to postgres://shop:hunter2@postgres.databases:5432/shop',
  `ERROR: syntax error in "CREATE ROLE x PASSWORD 'hunter2'"`,
  "STATEMENT: ALTER ROLE x WITH PASSWORD 'it''s hunter2';",
  'SCRAM-SHA-256$4096:hunter2==$abc:def',
  'PGPASSWORD=hunter2 psql',
  'password: hunter2',
  '{"api_key": "hunter2"}',
  'Authorization: Bearer hunter2hunter2',
  'authorization: token hunter2',
  'connect to postgres://shop:p@hunter2@postgres/shop',
  // Cut off in the middle, as the end of a long message is.
  "CREATE ROLE x PASSWORD 'it''s hunter2",
  "CREATE ROLE x PASSWORD E'it\\'s hunter2'",
  '-----BEGIN RSA PRIVATE KEY-----\nhunter2\nhunter2',
])('hides the secret of %s', (text) => {
  expect(redact(text)).not.toContain('hunter2');
  expect(redact(text)).toContain('***');
});

test.each([
  'a.'.repeat(200_000),
  'password'.repeat(50_000),
  'a://b:'.repeat(60_000),
  'eyJaaaaaaa-'.repeat(30_000),
  `password '${"''".repeat(200_000)}`,
  '-----BEGIN PRIVATE KEY-----'.repeat(15_000),
  `bearer${' '.repeat(300_000)}`,
])('takes no longer for what is made to take long (%#)', (text) => {
  const began = performance.now();
  redact(text);
  expect(performance.now() - began).toBeLessThan(2000);
});

test('leaves ordinary words alone', () => {
  const text =
    'FATAL: password authentication failed for user "shop"; token bucket is empty; 3 secrets found at 10:15:02';
  expect(redact(text)).toBe(text);
});

test.each([
  ['app.settings.jwt_secret', 'x'],
  ['app.encryption_key', 'x'],
  ['vault.keys', 'x'],
  ['primary_conninfo', 'host=a'],
  ['ssl_passphrase_command', 'echo x'],
  ['app.upstream', 'postgres://a:b@c/d'],
])('%s may hold a secret', (name, value) => expect(mayHoldSecret(name, value)).toBe(true));

test.each([
  ['work_mem', '5MB'],
  ['password_encryption', 'md5'],
  ['ssl_key_file', '/certs/tls.key'],
  ['krb_server_keyfile', '/etc/krb5.keytab'],
  ['tcp_keepalives_idle', '60'],
  ['log_line_prefix', '%m [%p] '],
])('%s holds none', (name, value) => expect(mayHoldSecret(name, value)).toBe(false));
