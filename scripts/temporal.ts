/** Makes sure that a `temporal` binary is at hand for demo and tests: finds, downloads or builds one. */
import { spawn } from 'node:child_process';
import { chmod, mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { findTemporal, temporalCache } from '../src/client/temporal-server.ts';

const version = 'v1.5.1';

async function ensureTemporal(): Promise<void> {
  // A configured server needs no binary, except for the tests, which start servers of their own and run the command.
  if (process.env['TEMPORAL_ADDRESS'] && process.env['npm_lifecycle_event'] !== 'pretest') return;
  if (await findTemporal()) return;
  await mkdir(temporalCache, { recursive: true });
  try {
    await withProgress('downloading Temporal’s development server', download());
    return;
  } catch (error) {
    // The innermost reason comes last; what wraps it repeats the address.
    const reason = firstLine(error).split(': ').slice(-2).join(': ');
    say(`the download failed (${reason}); building it with Go instead`);
  }
  try {
    await withProgress(`go install temporal@${version}, 4 to 5 minutes the first time`, build());
  } catch (error) {
    say(
      `no Temporal server: ${firstLine(error)}. Install the \`temporal\` command (https://docs.temporal.io/cli), ` +
        'or Go 1.24 or later, or set TEMPORAL_ADDRESS to a server that runs already; then try again.',
    );
    process.exitCode = 1;
  }
}

/** The SDK knows where its server is published; it has no call that only downloads, so the server is started and ended. */
async function download(): Promise<void> {
  // Loaded only here: it takes longer than all the rest of a set-up that finds everything.
  const { TestWorkflowEnvironment } = await import('@temporalio/testing');
  const executable = { type: 'cached-download', version, downloadDir: temporalCache, ttl: '365d' } as const;
  const starting = TestWorkflowEnvironment.createLocal({ server: { executable } });
  const late = new Promise<never>((_, reject) => setTimeout(reject, 90_000, new Error('no answer in 90 s')).unref());
  await (await Promise.race([starting, late])).teardown();
}

/** Builds beside its place and renames, so that an interrupted build leaves nothing that looks finished. */
async function build(): Promise<void> {
  const folder = await mkdtemp(path.join(temporalCache, 'build-'));
  try {
    // -s -w leaves debugging tables out: a third smaller, and linking is faster.
    await runGo(['install', '-ldflags=-s -w', `github.com/temporalio/cli/cmd/temporal@${version}`], { GOBIN: folder });
    const built = path.join(folder, process.platform === 'win32' ? 'temporal.exe' : 'temporal');
    await chmod(built, 0o755);
    await rename(built, path.join(temporalCache, path.basename(built)));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

function runGo(args: string[], env: Record<string, string>): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn('go', args, { env: { ...process.env, ...env }, stdio: ['ignore', 'ignore', 'pipe'] });
    let stderr = '';
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr = (stderr + text).slice(-4000)));
    child.on('error', (error: NodeJS.ErrnoException) => {
      reject(error.code === 'ENOENT' ? new Error('neither a download nor Go is at hand') : error);
    });
    child.on('close', (code) => {
      if (code === 0) resolve();
      else reject(new Error(`go ${args.join(' ')} failed: ${stderr.trim().split('\n').at(-1) ?? `exit code ${code}`}`));
    });
  });
}

/** One line with the elapsed time: rewritten on a terminal, repeated now and then in a log. */
async function withProgress(label: string, work: Promise<void>): Promise<void> {
  const started = Date.now();
  const line = () => `set-up: ${label} … ${Math.round((Date.now() - started) / 1000)} s`;
  const terminal = process.stderr.isTTY;
  const show = () => process.stderr.write(terminal ? `\r${line()}` : `${line()}\n`);
  show();
  const timer = setInterval(show, terminal ? 1000 : 30_000);
  try {
    await work;
  } finally {
    clearInterval(timer);
    show();
    if (terminal) process.stderr.write('\n');
  }
}

function say(text: string): void {
  process.stderr.write(`set-up: ${text}\n`);
}

function firstLine(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).split('\n')[0] ?? '';
}

await ensureTemporal();
