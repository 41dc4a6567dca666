import { createHash } from 'node:crypto';
import { chmod, chown, copyFile, cp, lstat, mkdir, readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import { describeImage, type ImageDescription } from '../../src/sandbox/images/catalog.ts';
import { postgresLayer } from '../../src/sandbox/images/postgres.ts';
import { run } from './command.ts';
import { pauseImage } from './components.ts';
import { ClusterProblem } from './layout.ts';
import { cachedLayer, importImage, packFolder, type Layer } from './oci.ts';
import { step } from './progress.ts';

/** What the manifests of examples and tests name; each is what the sandbox knows under that name. */
const references = [
  'postgres:15',
  'postgres:16',
  'postgres:17',
  'postgres:18',
  'pgleap/sandbox-service:1',
  'pgleap/sandbox-backup:1',
];

/** In which release Debian has a major. It never had 16: that one is laid over the root of 15, with PATH naming its own. */
const suites = { 15: 'bookworm', 17: 'trixie', 18: 'sid' };
const sandboxCache = path.join(import.meta.dirname, '..', '..', '.cache', 'sandbox');
/** The official image's; every root has it. */
const locale = 'en_US.utf8';

const sample =
  'sed -ri "s!^#?(listen_addresses)\\s*=\\s*\\S+.*!\\1 = \'*\'!" "$1"/usr/share/postgresql/*/postgresql.conf.sample';

function bootstrapOptions(major: keyof typeof suites): string[] {
  return [
    '--mode=root',
    '--variant=minbase',
    // A mirror that stands still is as good as any: its signature is checked all the same.
    '--aptopt=Acquire::Check-Valid-Until "false"',
    '--aptopt=Acquire::Languages "none"',
    '--dpkgopt=path-exclude=/usr/share/doc/*',
    '--dpkgopt=path-exclude=/usr/share/man/*',
    `--include=postgresql-${major},locales,zstd,xz-utils`,
    // The official image's numbers; the package takes the user that is there.
    '--essential-hook=echo "postgres:x:999:" >>"$1/etc/group"',
    '--essential-hook=echo "postgres:x:999:999::/var/lib/postgresql:/bin/bash" >>"$1/etc/passwd"',
    '--customize-hook=chroot "$1" localedef -i en_US -c -f UTF-8 en_US.UTF-8',
    `--customize-hook=${sample}`,
    '--customize-hook=rm -rf "$1"/var/lib/postgresql/* "$1"/etc/postgresql/* "$1"/var/log/postgresql/*',
  ];
}

/** Where this machine has its own packages from: the other releases lie there, too. */
async function debianMirror(): Promise<string> {
  const format = ['indextargets', '--format', '$(CODENAME) $(REPO_URI)', 'Created-By: Packages', 'Origin: Debian'];
  const lines = (await run('apt-get', format)).split('\n').map((line) => line.split(' '));
  const [, uri] = lines.find(([codename = '-', found]) => found !== undefined && !codename.includes('-')) ?? [];
  if (uri === undefined) throw new Error('apt-get knows no mirror of Debian: see /etc/apt/sources.list');
  return uri;
}

/** A root filesystem with PostgreSQL from Debian: half a minute and 300 to 470 MB each. */
async function rootLayer(major: keyof typeof suites, signal?: AbortSignal): Promise<Layer> {
  const options = bootstrapOptions(major);
  const key = `postgres-${major}-${suites[major]}-${hashOf(JSON.stringify(options))}`;
  return cachedLayer(key, async (file) => {
    await step(`making a root filesystem with PostgreSQL ${major} from Debian ${suites[major]}`, async () => {
      try {
        await run('mmdebstrap', [...options, suites[major], file, await debianMirror()], { signal });
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        throw new ClusterProblem(
          `PostgreSQL ${major} could not be had from Debian ${suites[major]}. Look whether apt-get update works here, then run it again.\n${reason}`,
          { cause: error },
        );
      }
    });
  });
}

const hashOf = (text: string) => createHash('sha256').update(text).digest('hex').slice(0, 16);

/** The root filesystems, made or from the cache; the slow part, which needs no cluster. */
export type Roots = Record<keyof typeof suites, Layer>;

export async function makeRoots(signal?: AbortSignal): Promise<Roots> {
  return { 15: await rootLayer(15, signal), 17: await rootLayer(17, signal), 18: await rootLayer(18, signal) };
}

/** Gives the cluster every image that it lacks, or has in another state. */
export async function importImages(roots: Roots, signal?: AbortSignal): Promise<void> {
  for (const reference of references) {
    signal?.throwIfAborted();
    const image = describeImage(reference, locale);
    const base = image.major === 16 ? [roots[15], await sandboxPostgres(image.major)] : [roots[image.major]];
    const layers = [...base, await ownFiles(image)];
    const name = `docker.io/${reference.includes('/') ? reference : `library/${reference}`}`;
    const { uid, gid } = image.user;
    await step(`importing ${reference}`, () =>
      importImage({
        name,
        layers,
        config: {
          Entrypoint: image.entrypoint,
          Cmd: image.cmd,
          Env: Object.entries(image.env).map(([key, value]) => `${key}=${value}`),
          StopSignal: image.stopSignal,
          ...(uid === 0 ? {} : { User: `${uid}:${gid}` }),
          ...volumesOf(image),
        },
      }),
    );
  }
}

/** As in the official images: 18 has its volume one level higher. */
function volumesOf(image: ImageDescription): {
  Volumes?: Record<string, object>;
  ExposedPorts?: Record<string, object>;
} {
  const pgdata = image.env['PGDATA'];
  if (pgdata === undefined) return {};
  const volume = image.major >= 18 ? '/var/lib/postgresql' : pgdata;
  return { Volumes: { [volume]: {} }, ExposedPorts: { '5432/tcp': {} } };
}

/** The sandbox's PostgreSQL, which is made to be laid over a /usr, as a layer. */
async function sandboxPostgres(major: 16): Promise<Layer> {
  const source = await postgresLayer(sandboxCache, major);
  return cachedLayer(path.basename(source), async (file, scratch) => {
    const root = await newRoot(scratch);
    await cp(path.join(source, 'lib'), path.join(root, 'usr', 'lib'), { recursive: true, verbatimSymlinks: true });
    await packFolder(root, file);
  });
}

/** What the sandbox binds into the container and makes in it: entrypoint, programs, directories with their owners. */
async function ownFiles(image: ImageDescription): Promise<Layer> {
  const contents = await Promise.all(image.binds.map(async ({ source }) => fingerprint(source)));
  const key = `files-${hashOf(JSON.stringify([image.binds.map(({ target }) => target), image.directories, contents]))}`;
  return cachedLayer(key, async (file, scratch) => {
    const root = await newRoot(scratch);
    for (const { source, target } of image.binds) {
      const place = path.join(root, target);
      await mkdir(path.dirname(place), { recursive: true });
      if ((await lstat(source)).isDirectory()) await cp(source, place, { recursive: true });
      else {
        await copyFile(source, place);
        await chmod(place, 0o755);
      }
    }
    for (const { path: directory, mode, owner } of image.directories) {
      // Debian's /var/run is a link to /run, and a layer must not replace it by a directory.
      const place = path.join(root, directory.replace(/^\/var\/run\//, '/run/'));
      await mkdir(place, { recursive: true });
      await chown(place, owner.uid, owner.gid);
      await chmod(place, mode);
    }
    await packFolder(root, file);
  });
}

async function newRoot(scratch: string): Promise<string> {
  const root = path.join(scratch, 'root');
  await mkdir(root);
  return root;
}

async function fingerprint(file: string): Promise<string> {
  const found = await lstat(file);
  if (found.isDirectory()) {
    const names = (await readdir(file)).sort();
    return (await Promise.all(names.map(async (name) => `${name} ${await fingerprint(path.join(file, name))}`))).join(
      '\n',
    );
  }
  return createHash('sha256')
    .update(await readFile(file))
    .digest('hex');
}

/** The image that the kubelet starts first in each pod. */
export async function importPause(binary: string): Promise<void> {
  const layer = await cachedLayer(path.basename(binary), async (file, scratch) => {
    const root = await newRoot(scratch);
    await copyFile(binary, path.join(root, 'pause'));
    await chmod(path.join(root, 'pause'), 0o755);
    await packFolder(root, file);
  });
  await importImage({ name: pauseImage, layers: [layer], config: { Entrypoint: ['/pause'], User: '65534' } });
}
