/** A Temporal server that is there and too busy to answer: stopped for a while by a signal. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { createServer, type AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { expect, onTestFinished, test } from 'vitest';
import { connect, countWorkers, requireWorker, type Session } from '../../src/client/connection.ts';
import { findTemporal } from '../../src/client/temporal-server.ts';

test('is asked again, and named when it goes on', { timeout: 120_000 }, async () => {
  const free = createServer().listen(0, '127.0.0.1');
  await once(free, 'listening');
  const { port } = free.address() as AddressInfo;
  await new Promise((resolve) => free.close(resolve));
  const args = ['server', 'start-dev', '--headless', '--port', String(port), '--log-level', 'error'];
  const server = spawn((await findTemporal()) ?? '', args, { stdio: 'ignore' });
  onTestFinished(() => void server.kill('SIGKILL'));
  const session = await patientConnect(`127.0.0.1:${port}`);
  onTestFinished(() => session.close());
  expect(await countWorkers(session)).toBe(0);

  await stop(server);
  const begun = performance.now();
  const counted = countWorkers(session);
  await sleep(11_000);
  server.kill('SIGCONT');
  expect(await counted).toBe(0);
  expect(performance.now() - begun).toBeGreaterThan(11_000);

  await stop(server);
  await expect(requireWorker(session)).rejects.toMatchObject({
    exit: 'noTemporal',
    message: expect.stringContaining(`${session.address} did not say within 30 s who serves task queue pgleap`),
  });
});

/** On a busy machine its threads may answer for a moment after the signal. */
async function stop(server: ChildProcess): Promise<void> {
  server.kill('SIGSTOP');
  const state = () => readFile(`/proc/${server.pid}/status`, 'utf8');
  while (!/^State:\s+T/m.test(await state())) await sleep(10);
}

async function patientConnect(address: string): Promise<Session> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await connect({ address });
    } catch (error) {
      if (attempt === 30) throw error;
      await sleep(1000);
    }
  }
}
