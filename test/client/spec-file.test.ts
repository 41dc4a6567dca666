/** What the client refuses to send: it would stay in Temporal's history. */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-spec-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

const workload = (env: string) => `kind: Deployment
metadata: {name: postgres}
spec:
  template:
    spec:
      containers:
        - name: postgres
          env:
            - ${env}
`;

async function read(manifest: string, patch = '{}'): Promise<string> {
  const file = join(folder, 'upgrade.yaml');
  await writeFile(join(folder, 'postgres.yaml'), manifest);
  await writeFile(
    file,
    `database: {namespace: databases, manifests: [postgres.yaml]}\ntarget: {image: "postgres:18", patch: ${patch}}\n`,
  );
  return readSpecFile(file).then(
    () => 'taken',
    (error: unknown) => String(error),
  );
}

test.each([
  ['a Secret beside it', `${workload('{name: TZ, value: UTC}')}---\nkind: Secret\nstringData: {password: hunter2}\n`],
  ['a Secret in a List', 'kind: List\nitems:\n  - kind: Secret\n    data: {password: aHVudGVyMg==}\n'],
  ['a password as a literal', workload('{name: POSTGRES_PASSWORD, value: hunter2}')],
  ['a password in a URL', workload('{name: UPSTREAM, value: "postgres://app:hunter2@db/shop"}')],
])('a manifest with %s', async (_what, manifest) => {
  const said = await read(manifest);
  expect(said).toContain('postgres.yaml: a ');
  expect(said).not.toMatch(/hunter2|aHVudGVyMg/);
});

test('a patch with a password as a literal', async () => {
  const patch =
    '{spec: {template: {spec: {containers: [{name: postgres, env: [{name: PGPASSWORD, value: hunter2}]}]}}}}';
  const said = await read(workload('{name: TZ, value: UTC}'), patch);
  expect(said).toContain('target.patch: a literal value of PGPASSWORD');
  expect(said).not.toContain('hunter2');
});

test.each([
  '{name: POSTGRES_PASSWORD, valueFrom: {secretKeyRef: {name: postgres, key: password}}}',
  '{name: POSTGRES_PASSWORD_FILE, value: /run/secrets/password}',
  '{name: POSTGRES_HOST_AUTH_METHOD, value: scram-sha-256}',
])('%s is taken', async (env) => {
  expect(await read(workload(env))).toBe('taken');
});
