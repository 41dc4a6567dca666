/** Commands as people type them, run for real. */
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { findTemporal } from '../../src/client/temporal-server.ts';

const root = path.resolve(import.meta.dirname, '../..');

export interface Output {
  code: number;
  stdout: string;
  stderr: string;
}

export interface Terminal {
  folder: string;
  /** Runs one line of shell. Ends with code -1 when it takes longer than `limitMs`. */
  type(line: string, limitMs?: number): Promise<Output>;
  write(name: string, text: string): Promise<void>;
  close(): Promise<void>;
}

/** A folder with `pgleap` and `temporal` on PATH, and nothing else of pgleap's configuration than what is given. */
export async function openTerminal(env: Record<string, string>): Promise<Terminal> {
  const folder = await mkdtemp(path.join(tmpdir(), 'pgleap-client-'));
  const bin = path.join(folder, 'bin');
  await mkdir(bin);
  await symlink(path.join(root, 'bin/pgleap'), path.join(bin, 'pgleap'));
  const temporal = await findTemporal();
  if (temporal === undefined) throw new Error('no temporal binary; run node scripts/setup.mjs');
  await symlink(temporal, path.join(bin, 'temporal'));
  const environment = {
    PATH: `${bin}:${process.env['PATH'] ?? ''}`,
    // No configuration of whoever runs the tests.
    HOME: folder,
    TEMPORAL_CONFIG_FILE: path.join(folder, 'temporal.toml'),
    NO_COLOR: '1',
    ...env,
  };
  return {
    folder,
    write: (name, text) => writeFile(path.join(folder, name), text),
    close: () => rm(folder, { recursive: true, force: true }),
    type: (line, limitMs = 30_000) =>
      new Promise((resolve, reject) => {
        const child = spawn('sh', ['-c', line], { cwd: folder, env: environment, detached: true });
        let stdout = '';
        let stderr = '';
        child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
        child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
        child.stdin.end();
        const timer = setTimeout(() => process.kill(-(child.pid ?? 0), 'SIGKILL'), limitMs);
        child.on('error', reject);
        child.on('close', (code) => {
          clearTimeout(timer);
          resolve({ code: code ?? -1, stdout, stderr });
        });
      }),
  };
}

/** The fenced blocks of README.md below a heading, by language. */
export async function readmeBlocks(heading: string, language: string): Promise<string[]> {
  const readme = await readFile(path.join(root, 'README.md'), 'utf8');
  const section = readme.split(/^## /m).find((text) => text.startsWith(`${heading}\n`));
  if (section === undefined) throw new Error(`README.md has no section ${heading}`);
  return [...section.matchAll(/^```(\w+)\n(.*?)^```/gms)].flatMap(([, found, text]) =>
    found === language && text !== undefined ? [text] : [],
  );
}
