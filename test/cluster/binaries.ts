import { createHash } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { copyFile, mkdir, rename, rm } from 'node:fs/promises';
import path from 'node:path';
import { run } from './command.ts';
import { cacheFolder, ClusterProblem, stateFolder } from './layout.ts';

/** Of the three Go modules: the files that decide what is built, and how it is told its version. */
const modules = {
  kubernetes: {
    files: ['go.mod', 'go.sum', 'main.go', 'dns.go', 'pause/main.go'],
    flags:
      '-s -w -X k8s.io/component-base/version.gitVersion=v1.34.4 -X k8s.io/client-go/pkg/version.gitVersion=v1.34.4',
  },
  csi: {
    files: ['go.mod', 'go.sum', 'main.go', 'identity.go', 'controller.go', 'node.go', 'linode.go', 'provisioner.go'],
    flags: '-s -w',
  },
  manifests: { files: ['go.mod', 'go.sum', 'main.go'], flags: '-s -w' },
};

const programs = {
  /** Holds a pod's namespaces. */
  pause: { module: 'kubernetes', from: './pause' },
  /** All programs of Kubernetes in one. */
  kubernetes: { module: 'kubernetes', from: '.' },
  csi: { module: 'csi', from: '.' },
  'csi-attacher': { module: 'csi', from: 'github.com/kubernetes-csi/external-attacher/v4/cmd/csi-attacher' },
  'csi-resizer': { module: 'csi', from: 'github.com/kubernetes-csi/external-resizer/v2/cmd/csi-resizer' },
  /** Reads docker-compose.yml and deploy/; the cluster has no use for it. */
  manifests: { module: 'manifests', from: '.' },
} as const;

type Program = keyof typeof programs;

/** Paths of the cluster's programs. */
export type Binaries = Record<Exclude<Program, 'manifests'>, string>;

const names = Object.keys(programs).filter((name) => name !== 'manifests') as (keyof Binaries)[];
const moduleFolder = (name: keyof typeof modules) => path.join(import.meta.dirname, name);

function sourceHash(name: keyof typeof modules): string {
  const hash = createHash('sha256');
  for (const file of modules[name].files) hash.update(readFileSync(path.join(moduleFolder(name), file)));
  return hash.digest('hex').slice(0, 16);
}

const cached = (name: Program) =>
  path.join(cacheFolder, 'bin', `${name}-${process.arch}-${sourceHash(programs[name].module)}`);

/** Whether nothing needs to be compiled. */
export function binariesAreBuilt(): boolean {
  return names.every((name) => existsSync(cached(name)));
}

/** Builds what is not in the cache, 5 to 15 minutes on two cores the first time. */
export async function buildBinaries(signal?: AbortSignal): Promise<Binaries> {
  for (const name of names) await build(name, signal);
  return Object.fromEntries(names.map((name) => [name, cached(name)])) as Binaries;
}

/** Builds one program unless the cache has it. @returns its path */
export async function build(name: Program, signal?: AbortSignal): Promise<string> {
  if (existsSync(cached(name))) return cached(name);
  await mkdir(path.dirname(cached(name)), { recursive: true });
  const made = `${cached(name)}.${process.pid}`;
  const { module, from } = programs[name];
  try {
    const flags = ['-trimpath', '-buildvcs=false', `-ldflags=${modules[module].flags}`];
    await run('go', ['build', ...flags, '-o', made, from], {
      cwd: moduleFolder(module),
      env: { ...process.env, CGO_ENABLED: '0' },
      signal,
    });
    // Beside its place and then renamed: an interrupted build leaves nothing that looks finished.
    await rename(made, cached(name));
    return cached(name);
  } catch (error) {
    const reason = error instanceof Error ? error.message : String(error);
    throw new ClusterProblem(
      `${name} could not be built from its Go modules. Look whether Go's module proxy can be reached (go env GOPROXY), then run it again: what was compiled is kept.\n${reason}`,
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
