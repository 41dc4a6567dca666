/** Starts workers that stand still at each boundary of their activities, until they are told to go on or to die. */
import { spawn, type ChildProcess } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import type { Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { bundleWorkflowCode, DefaultLogger } from '@temporalio/worker';
import type { Boundary } from './boundary.ts';

/** `meet` is asked at one boundary at a time, and must not fail; the worker's last words are in `log`. */
export function startStopping(
  env: NodeJS.ProcessEnv,
  workflows: string,
  meet: (boundary: Boundary) => Promise<'g' | 'k'>,
): { worker: ChildProcess; log: () => string } {
  const worker = spawn(process.execPath, [join(import.meta.dirname, 'worker.ts')], {
    env: { ...env, CHAOS_WORKFLOWS: workflows },
    stdio: ['ignore', 'ignore', 'pipe', 'pipe'],
  });
  let log = '';
  worker.stderr?.on('data', (chunk: Buffer) => (log = (log + chunk.toString()).slice(-3000)));
  const channel = worker.stdio[3] as Socket;
  channel.on('error', () => undefined);
  createInterface({ input: channel }).on('line', (line) => {
    void meet(JSON.parse(line) as Boundary).then((answer) => channel.write(answer));
  });
  return { worker, log: () => log };
}

/** Once for all of the many workers of a run. */
export async function bundleWorkflows(): Promise<{ path: string; remove: () => Promise<void> }> {
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-workflows-'));
  const source = (file: string) => join(import.meta.dirname, '..', '..', 'src', 'workflows', file);
  const { code } = await bundleWorkflowCode({
    workflowsPath: source('index.ts'),
    workflowInterceptorModules: [source('interceptors.ts')],
    logger: new DefaultLogger('WARN'),
  });
  const path = join(folder, 'workflows.js');
  await writeFile(path, code);
  return { path, remove: () => rm(folder, { recursive: true, force: true }) };
}
