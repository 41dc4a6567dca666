/** What servers answer: bodies of APIs, status lines of jobs, journals that somebody edited, kubeconfigs, key files. */
import { createServer, type Server } from 'node:http';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import * as fc from 'fast-check';
import { afterAll, beforeAll, expect, vi } from 'vitest';
import { compareFingerprintFiles } from '../../src/activities/artifacts/compare.ts';
import { cloudflareActivities } from '../../src/activities/cloudflare.ts';
import { createKube, type Kube } from '../../src/activities/kubernetes/client.ts';
import { fromResponse } from '../../src/activities/kubernetes/failures.ts';
import { pollJob } from '../../src/activities/kubernetes/jobs.ts';
import { createJournalActivities, listJournals } from '../../src/activities/kubernetes/journal.ts';
import { linodeActivities } from '../../src/activities/linode.ts';
import { readSpecFile } from '../../src/client/spec-file.ts';
import type { World } from '../../src/domain/facts.ts';
import { sqlJson } from '../../src/activities/postgres/psql.ts';
import { cameOutBefore, versionText, whyNotUpgrade } from '../../src/domain/versions.ts';
import { loadKubeConfig } from '../../src/worker/config.ts';
import { pod as podOfExec, startExecServer } from '../activities/exec-server.ts';
import { asText, bodies, explained, fuzz, nearly, strangeText } from './fuzz.ts';

const world: World = { clusterUid: 'c', upgradeId: 'u00000001', startedAt: '2026-01-01T00:00:00Z', namespace: 'db' };
const namespaceObject = {
  kind: 'Namespace',
  metadata: { name: 'kube-system', uid: 'c', resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z' },
};

let folder: string;
let server: Server;
let inPods: Awaited<ReturnType<typeof startExecServer>>;
let url: string;
let kube: Kube;
/** What the server answers next, by path; every other path gets what the calls around need. */
let answers: (path: string) => { status: number; body: string } | undefined = () => undefined;
let writes = 0;

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'pgleap-fuzz-'));
  inPods = await startExecServer({ paths: { '/pgleap/jobs': join(folder, 'jobs'), bash: join(folder, 'bash') } });
  // In place of bash with psql: says whatever lies there.
  await writeFile(join(folder, 'bash'), `#!/bin/sh\ncat ${join(folder, 'said')}\n`, { mode: 0o700 });
  server = createServer((request, response) => {
    const { method, url: path = '/' } = request;
    if (method !== 'GET') writes += 1;
    const { status, body } = answers(path) ?? { status: 404, body: '{}' };
    request.resume().on('end', () => response.writeHead(status, { 'content-type': 'application/json' }).end(body));
  });
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  url = `http://127.0.0.1:${address.port}`;
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromOptions({
    clusters: [{ name: 'c', server: url, skipTLSVerify: true }],
    users: [{ name: 'u', token: 't' }],
    contexts: [{ name: 'x', cluster: 'c', user: 'u' }],
    currentContext: 'x',
  });
  kube = createKube(kubeConfig);
});

afterAll(async () => {
  vi.unstubAllEnvs();
  await inPods?.close();
  server?.closeAllConnections();
  await new Promise((resolve) => server?.close(resolve));
  await rm(folder, { recursive: true, force: true });
});

const head = {
  upgradeId: world.upgradeId,
  workflowId: 'pgleap/db/postgres',
  planHash: 'p',
  summary: 's',
  startedAt: world.startedAt,
  committedAt: null,
  outcome: null,
  closedAt: null,
};
const entry = {
  undo: { id: 'a', phase: 'prepare', says: 'a', activity: 'removeScratch', args: {}, last: true },
  undoneAt: null,
};
const journal = (upgrade: string, undo: string) => ({
  metadata: {
    name: 'pgleap-u00000001-journal',
    namespace: 'db',
    uid: 'j',
    labels: { 'pgleap.dev/upgrade': world.upgradeId },
    creationTimestamp: '2026-01-01T00:00:01Z',
    resourceVersion: '1',
  },
  data: { upgrade, 'undo.0001': undo },
});

fuzz('journals that somebody edited', fc.tuple(bodies(head), bodies(entry)), 1500, async ([upgrade, undo]) => {
  const map = journal(upgrade, undo);
  answers = (path) => ({
    status: 200,
    body: asText(
      path.includes('namespaces/kube-system')
        ? namespaceObject
        : path.includes('/configmaps/')
          ? map
          : { items: [map] },
    ),
  });
  await explained(() => listJournals(kube, 'db'));
  writes = 0;
  const done = await explained(async () => {
    await createJournalActivities(kube).journalUndone({ world, undoId: 'nothing-of-that-name' });
    return true;
  });
  expect(writes, `writes, ${done === true ? 'done' : 'refused'}`).toBe(0);
});

const pod = {
  kind: 'Pod',
  metadata: { name: 'p', namespace: 'db', uid: 'u', resourceVersion: '1', creationTimestamp: '2026-01-01T00:00:00Z' },
  spec: { containers: [{ name: 'a' }] },
};
// Side by side, because a read is tried again after a moment when what answers is not the API.
fuzz(
  'bodies of the Kubernetes API',
  fc.array(bodies(pod), { minLength: 15, maxLength: 15 }),
  100,
  async (texts) => {
    answers = (path) => {
      const [, at = '0'] = /\/pods\/p(\d+)/.exec(path) ?? [];
      return { status: 200, body: texts[Number(at)]?.replace('"name":"p"', `"name":"p${at}"`) ?? '' };
    };
    await Promise.all(texts.map((_text, at) => explained(() => kube.get('Pod', { namespace: 'db', name: `p${at}` }))));
    await explained(() => kube.list('Pod', { namespace: 'db' }));
  },
  [],
  15,
);

const status = { kind: 'Status', message: 'no', reason: 'Conflict', details: { retryAfterSeconds: 1 } };
fuzz(
  'refusals of the Kubernetes API',
  fc.tuple(fc.integer({ min: 100, max: 999 }), bodies(status), strangeText),
  2500,
  async ([code, body, header]) => {
    const failure = fromResponse(code, body, { 'retry-after': header }, 'GET /api');
    await explained(() => {
      throw failure;
    });
    expect(failure.message.length).toBeLessThan(4100);
    expect(failure.nextRetryDelay === undefined || Number(failure.nextRetryDelay) <= 900_000).toBe(true);
  },
);

const volume = {
  id: 7,
  label: 'pvc-7',
  region: 'eu-central',
  size: 10,
  status: 'active',
  linode_id: null,
  tags: ['a'],
  created: '2026-01-01T00:00:00',
};
const wanted = { id: 7, label: 'pvc-7', region: 'eu-central', sizeGb: 10, encryption: 'x', monthlyPrice: null };
fuzz('bodies of Linode', fc.oneof(bodies(volume), bodies({ data: [volume] })), 1500, async (body) => {
  answers = () => ({ status: 200, body });
  writes = 0;
  const linode = linodeActivities({
    baseUrl: url,
    token: () => 't',
    assertWorld: async () => {},
    pollMs: 1,
    detachMs: 5,
  });
  await explained(() => linode.awaitDetached({ world, volume: wanted }));
  await explained(() => linode.removeClone({ world, source: wanted, label: 'another' }));
  expect(writes).toBe(0);
});

const zone = '0'.repeat(32);
const standing = { success: true, errors: [], messages: [], result: [{ id: 'a', pattern: 'b/*', script: 'c' }] };
fuzz('bodies of Cloudflare', bodies(standing), 1000, async (body) => {
  answers = () => ({ status: 200, body });
  writes = 0;
  const routes = cloudflareActivities({ baseUrl: url, token: () => 't', assertWorld: async () => {} });
  const route = { zone, pattern: 'b/*', prior: { id: 'a', script: 'd' } };
  await explained(() => routes.restoreRoute({ world, route, script: 'maintenance' }));
  expect(writes).toBe(0);
});

const kubeconfig = `apiVersion: v1
clusters: [{name: c, cluster: {server: "https://127.0.0.1:6443"}}]
users: [{name: u, user: {token: secret-token}}]
contexts: [{name: x, context: {cluster: c, user: u}}]
current-context: x
`;
fuzz('kubeconfigs', fc.oneof(nearly(fc.constant(kubeconfig)), strangeText), 800, async (text) => {
  const file = join(folder, 'kubeconfig');
  await writeFile(file, text);
  vi.stubEnv('KUBECONFIG', file);
  await explained(() => loadKubeConfig({ KUBECONFIG: file }));
});

const bomb = `a: &a [x,x,x,x,x,x,x,x,x]\n${'bcdefghi'
  .split('')
  .map((name, at) => {
    const above = 'abcdefghi'[at] ?? 'a';
    return `${name}: &${name} [${`*${above},`.repeat(9)}]\n`;
  })
  .join('')}`;
const specFile = 'database: {namespace: db}\ntarget: {image: postgres:18}\nservices: [web/site]\n';
fuzz(
  'spec files',
  fc.oneof(
    nearly(fc.constant(specFile)),
    strangeText,
    fc.nat(3000).map((depth) => 'a: ' + '['.repeat(depth)),
  ),
  1500,
  async (text) => {
    const file = join(folder, 'upgrade.yaml');
    await writeFile(file, text);
    await explained(() => readSpecFile(file));
  },
  [bomb, `${specFile}probes: ${'['.repeat(20_000)}`, `a: &a\n  b: *a\n`],
);

const garbage = (right: string[]) => fc.option(fc.oneof(nearly(fc.constantFrom(...right)), strangeText), { freq: 6 });
fuzz(
  'files of jobs in pods',
  fc.record({
    pid: garbage(['1\n', '99999999\n']),
    start: garbage(['123456\n']),
    rc: garbage(['0\n', '1\n', '137\n']),
    progress: garbage(['10 20\n', '5 -\n']),
    err: garbage(['ERROR:  42P01: no\n']),
  }),
  300,
  async (files) => {
    const job = join(folder, 'jobs/dump');
    await rm(job, { recursive: true, force: true });
    await mkdir(job, { recursive: true });
    for (const [name, text] of Object.entries(files)) if (text !== null) await writeFile(join(job, name), text);
    const state = await explained(() => pollJob(inPods.kc, podOfExec, 'dump'));
    if (state === undefined) return;
    // Only what is an exit code ends a job well.
    if (state.code !== null) expect(files.rc?.replaceAll('\u0000', '').trim()).toMatch(/^\d{1,3}(\s|$)/);
    else expect(['running', 'lost', 'full']).toContain(state.state);
  },
  [
    { pid: '', start: '', rc: null, progress: null, err: null },
    { pid: '1', start: '1', rc: '', progress: '', err: 'No space left on device' },
  ],
);

const server16 = {
  role: 'source' as const,
  pod: podOfExec,
  superuser: 'postgres',
  host: null,
  port: 5432,
};
fuzz(
  'what psql gives for one JSON value',
  bodies({ ident: 'a', set: [{ name: 'b', value: 'c' }] }),
  200,
  async (text) => {
    await writeFile(join(folder, 'said'), text);
    await explained(() => sqlJson(inPods.kc, server16, 'SELECT 1'));
  },
);

const lines = fc.array(
  fc.oneof(
    nearly(fc.constantFrom('rows\tshop\tpublic.orders\t10 20 30', 'role\t\tann\tsuper=f', 'note\t\ta\tb')),
    strangeText,
  ),
  { maxLength: 12 },
);
fuzz('fingerprints', fc.tuple(lines, lines, fc.boolean()), 1500, async ([a, b, same]) => {
  const [left, right] = [a.join('\n'), (same ? a : b).join('\n')];
  await writeFile(join(folder, 'a'), left);
  await writeFile(join(folder, 'b'), right);
  const { equal, differing, differences } = await compareFingerprintFiles(join(folder, 'a'), join(folder, 'b'));
  expect(equal).toBe(differing === 0);
  expect(differences.length).toBeLessThanOrEqual(20);
  const telling = (text: string) =>
    Buffer.from(text)
      .toString('latin1')
      .split(/\r\n|[\n\r]/)
      .filter((line) => line !== '' && !/^note\b/.test(line));
  expect(equal).toBe(JSON.stringify(telling(left)) === JSON.stringify(telling(right)));
});

const version = fc.oneof(fc.integer({ min: 90_000, max: 250_000 }), fc.integer(), fc.double());
fuzz('versions', fc.tuple(version, version), 1500, ([a, b]) => {
  expect(versionText(a)).not.toBe('');
  // Of two clients that differ, not both came out before the other.
  expect(cameOutBefore(a, b) === true && cameOutBefore(b, a) === true).toBe(false);
  expect(whyNotUpgrade(a, a)).not.toBeNull();
});
