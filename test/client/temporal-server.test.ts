import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Client, Connection } from '@temporalio/client';
import { expect, test } from 'vitest';
import { connect } from '../../src/client/connection.ts';
import { startTemporal } from '../../src/client/temporal-server.ts';
import { upgradeStatus } from '../../src/client/upgrades.ts';

const module = path.resolve(import.meta.dirname, '../../src/client/temporal-server.ts');

async function answers(address: string): Promise<boolean> {
  try {
    await (await Connection.connect({ address, connectTimeout: 500 })).close();
    return true;
  } catch {
    return false;
  }
}

test('a server with a file goes on where it was, on the same port', async () => {
  const folder = await mkdtemp(path.join(tmpdir(), 'pgleap-temporal-'));
  const dbFilename = path.join(folder, 'temporal.db');
  const first = await startTemporal({ ui: false, dbFilename });
  const port = Number(first.address.split(':')[1]);
  const connection = await Connection.connect({ address: first.address });
  await new Client({ connection }).workflow.start('nothing', { workflowId: 'kept', taskQueue: 'nobody' });
  await connection.close();
  await first.close();
  expect(await answers(first.address)).toBe(false);

  const second = await startTemporal({ ui: false, dbFilename, port });
  const again = await Connection.connect({ address: second.address });
  expect((await new Client({ connection: again }).workflow.getHandle('kept').describe()).status.name).toBe('RUNNING');
  await again.close();
  await second.close();
  await rm(folder, { recursive: true, force: true });
}, 60_000);

test('a server ends when whoever started it is killed', async () => {
  const script = `
    const { startTemporal } = await import(${JSON.stringify(module)});
    console.log((await startTemporal({ ui: false })).address);
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '--eval', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const address = await new Promise<string>((resolve) => child.stdout.setEncoding('utf8').once('data', resolve));
  expect(await answers(address.trim())).toBe(true);
  child.kill('SIGKILL');
  for (let tries = 0; tries < 50 && (await answers(address.trim())); tries += 1) await sleep(200);
  expect(await answers(address.trim())).toBe(false);
}, 60_000);

test('a server that goes away meanwhile is told from a worker that does not answer', async () => {
  const server = await startTemporal({ ui: false });
  const session = await connect({ address: server.address });
  const connection = await Connection.connect({ address: server.address });
  await new Client({ connection }).workflow.start('upgradePostgres', { workflowId: 'pgleap/a/b', taskQueue: 'nobody' });
  await connection.close();
  await expect(upgradeStatus(session, 'pgleap/a/b')).rejects.toMatchObject({ name: 'UserError', exit: 'noWorker' });
  await server.close();
  await expect(upgradeStatus(session, 'pgleap/a/b')).rejects.toMatchObject({ name: 'UserError', exit: 'noTemporal' });
  await session.close();
}, 60_000);

test('a worker that has been gone for a while is said to be missing', async () => {
  const server = await startTemporal({ ui: false });
  const session = await connect({ address: server.address });
  const { client, namespace } = session;
  await client.workflow.start('upgradePostgres', { workflowId: 'pgleap/a/b', taskQueue: 'left' });
  const { taskToken } = await client.withDeadline(Date.now() + 30_000, () =>
    client.workflowService.pollWorkflowTaskQueue({ namespace, taskQueue: { name: 'left' } }),
  );
  await client.workflowService.respondWorkflowTaskCompleted({ namespace, taskToken });
  // From then on the server refuses a query at once.
  await sleep(25_000);
  await expect(upgradeStatus(session, 'pgleap/a/b')).rejects.toMatchObject({ name: 'UserError', exit: 'noWorker' });
  await session.close();
  await server.close();
}, 90_000);
