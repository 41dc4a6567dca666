import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { inspect } from 'node:util';
import { ApplicationFailure } from '@temporalio/common';
import { MockActivityEnvironment } from '@temporalio/testing';
import { DefaultLogger } from '@temporalio/worker';
import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';
import { UserError } from '../../src/domain/exit-codes.ts';
import { readWorkerConfig } from '../../src/worker/config.ts';
import { createLogger } from '../../src/worker/logger.ts';
import { cleaner, secretsNet } from '../../src/worker/secrets.ts';

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'pgleap-config-'));
  const file = path.join(folder, 'kubeconfig');
  await writeFile(file, kubeconfig('x'));
  // The library reads these two from the process itself.
  vi.stubEnv('KUBECONFIG', file);
  vi.stubEnv('HOME', folder);
});

afterEach(async () => {
  vi.unstubAllEnvs();
  await rm(folder, { recursive: true, force: true });
});

function kubeconfig(current: string): string {
  return JSON.stringify({
    clusters: [{ name: 'c', cluster: { server: 'https://cluster.test' } }],
    users: [{ name: 'u', user: { token: 'k8s-secret' } }],
    contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
    'current-context': current,
  });
}

function refusal(env: NodeJS.ProcessEnv): string {
  try {
    readWorkerConfig({ ...process.env, ...env });
  } catch (error) {
    expect(error).toBeInstanceOf(UserError);
    expect(error).toMatchObject({ exit: 'configuration' });
    return error instanceof Error ? error.message : '';
  }
  throw new Error('it was accepted');
}

test('what is not set has its default', () => {
  expect(readWorkerConfig({ KUBECONFIG: process.env['KUBECONFIG'] })).toMatchObject({
    taskQueue: 'pgleap',
    artifacts: path.resolve('artifacts'),
    linodeToken: '',
    linodeUrl: undefined,
    cloudflareUrl: undefined,
    metrics: undefined,
    health: undefined,
  });
});

test('an empty variable is one that is not set, and URLs are put into one form', () => {
  const config = readWorkerConfig({
    ...process.env,
    PGLEAP_TASK_QUEUE: '',
    LINODE_API_URL: 'http://127.0.0.1:1/v4/',
    CLOUDFLARE_API_URL: 'http://127.0.0.1:2/client/v4/',
  });
  expect(config).toMatchObject({
    taskQueue: 'pgleap',
    linodeUrl: 'http://127.0.0.1:1',
    cloudflareUrl: 'http://127.0.0.1:2/client/v4',
  });
});

describe('what is wrong', () => {
  test('all of it at once, without values', () => {
    const said = refusal({
      LINODE_API_URL: 'ftp://user:pa55@x',
      PGLEAP_METRICS: 'here',
      PGLEAP_NOTIFY_URL: 'secret-hook',
    });
    expect(said).toContain('LINODE_API_URL must be');
    expect(said).toContain('PGLEAP_METRICS must be an address such as 127.0.0.1:9464');
    expect(said).toContain('PGLEAP_NOTIFY_URL must be');
    expect(said).not.toMatch(/pa55|secret-hook/);
  });

  test('a kubeconfig that is not there, is no YAML, or chooses nothing', async () => {
    vi.stubEnv('KUBECONFIG', path.join(folder, 'nowhere'));
    expect(refusal({})).toContain('cannot be read');
    const file = path.join(folder, 'other');
    vi.stubEnv('KUBECONFIG', file);
    await writeFile(file, '{{{');
    expect(refusal({})).toContain('cannot be read');
    await writeFile(file, 'null');
    expect(refusal({})).toContain('has not the shape of a kubeconfig');
    await writeFile(file, kubeconfig('nothing'));
    expect(refusal({})).toContain('has no current context');
  });

  test('no kubeconfig at all', () => {
    vi.stubEnv('KUBECONFIG', '');
    expect(refusal({ KUBECONFIG: '' })).toContain('No Kubernetes cluster is configured');
  });
});

test('no failure leaves an activity with one of the worker’s secrets', async () => {
  const token = 't0ken-of-linode';
  const cause = new Error(`GET /volumes with ${token}`);
  const failure = ApplicationFailure.create({ message: `no ${token}`, details: [{ header: token }], cause });
  const environment = new MockActivityEnvironment(
    {},
    { interceptors: [secretsNet(cleaner([token]))], logger: new DefaultLogger('ERROR') },
  );
  const caught: unknown = await environment
    .run(() => Promise.reject(failure))
    .then(
      () => null,
      (error: unknown) => error,
    );
  expect(caught).toMatchObject({ message: 'no ***', details: [expect.stringContaining('***')] });
  expect(inspect(caught, { depth: 9, showHidden: true })).not.toContain(token);
});

describe('the log', () => {
  test.each([true, false])('never holds a token (JSON: %s)', (json) => {
    const written: string[] = [];
    const spy = vi.spyOn(process.stderr, 'write').mockImplementation((text) => written.push(String(text)) > 0);
    const logger = createLogger({ json, level: 'INFO', clean: cleaner(['t0ken-of-linode', '']) });
    logger.error('GET https://u:hunter2@api failed with t0ken-of-linode', {
      error: new Error('authorization: Bearer t0ken-of-linode'),
      workflowId: 'pgleap/db/postgres',
      big: 1n,
    });
    logger.debug('not at this level');
    spy.mockRestore();
    expect(written).toHaveLength(1);
    expect(written[0]).not.toMatch(/t0ken-of-linode|hunter2/);
    expect(written[0]).toContain('pgleap/db/postgres');
    if (json) expect(JSON.parse(written[0] ?? '')).toMatchObject({ level: 'error', big: '1' });
  });
});
