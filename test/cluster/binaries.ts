import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { run } from './command.ts';
import { cacheFolder, ClusterProblem, stateFolder } from './layout.ts';

const source = path.join(import.meta.dirname, 'kubernetes');
const release = 'v1.34.4';

function sourceHash(): string {
  const hash = createHash('sha256');
  for (const file of ['go.mod', 'go.sum', 'main.go', 'dns.go', 'pause/main.go'])
    hash.update(readFileSync(path.join(source, file)));
  return hash.digest('hex').slice(0, 16);
}

const cached = (name: string) => path.join(cacheFolder, 'bin', `${name}-${process.arch}-${sourceHash()}`);

/** Whether nothing needs to be compiled. */
export function binariesAreBuilt(): boolean {
  return existsSync(cached('kubernetes')) && existsSync(cached('pause'));
}

/** The programs of Kubernetes in one binary, and the one that holds a pod's namespaces. */
export interface Binaries {
  kubernetes: string;
  pause: string;
}

/** Builds what is not in the cache, 5 to 15 minutes on two cores the first time. */
export async function buildBinaries(signal?: AbortSignal): Promise<Binaries> {
  await build('pause', './pause', signal);
  await build('kubernetes', '.', signal);
  return { kubernetes: cached('kubernetes'), pause: cached('pause') };
}

async function build(name: string, folder: string, signal?: AbortSignal): Promise<void> {
  if (existsSync(cached(name))) return;
  await mkdir(path.dirname(cached(name)), { recursive: true });
  const made = `${cached(name)}.${process.pid}`;
  const version = ['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].map(
    (at) => `-X ${at}.gitVersion=${release}`,
  );
  try {
    const flags = ['-trimpath', '-buildvcs=false', `-ldflags=-s -w ${version.join(' ')}`];
    await run('go', ['build', ...flags, '-o', made, folder], {
      cwd: source,
      env: { ...process.env, CGO_ENABLED: '0' },
      signal,
    });
    // Beside its place and then renamed: an interrupted build leaves nothing that looks finished.
    await rename(made, cached(name));
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ClusterProblem(
      `Kubernetes ${release} could not be built from its Go modules. Look whether Go's module proxy can be reached (go env GOPROXY), then run it again: what was compiled is kept.\n${reason}`,
      { cause: error },
    );
  } finally {
    await rm(made, { force: true });
  }
}

/** Puts a copy where the running cluster keeps it, so that a change of the cache does not reach into it. @returns its path */
export async function placeBinary(binary: string): Promise<string> {
  const target = path.join(stateFolder, 'bin', path.basename(binary));
  if (existsSync(target)) return target;
  await mkdir(path.dirname(target), { recursive: true });
  await copyFile(binary, `${target}.new`);
  await rename(`${target}.new`, target);
  return target;
}
