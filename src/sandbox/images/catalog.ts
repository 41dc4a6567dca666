import { join } from 'node:path';
import { ImageNotFound, type Mount } from '../runtime/types.ts';
import { ENTRYPOINT_SOURCE, postgresLayer, type PostgresMajor } from './postgres.ts';

/** A user inside containers; the host need not know it. */
export interface ImageUser {
  uid: number;
  gid: number;
  home: string;
}

/** What the runtime must know to start a container: the image's configuration and where its files are. */
export interface Image {
  /** Directory laid over the host's /usr. */
  layer: string;
  /** Directories and files of the image that do not come from the layer. */
  binds: Mount[];
  directories: { path: string; mode: number; owner: ImageUser }[];
  entrypoint: string[];
  cmd: string[];
  env: Record<string, string>;
  user: ImageUser;
  stopSignal: 'SIGINT' | 'SIGTERM';
}

export const ROOT_USER: ImageUser = { uid: 0, gid: 0, home: '/root' };
/** As in the official Debian image. */
export const POSTGRES_USER: ImageUser = { uid: 999, gid: 999, home: '/var/lib/postgresql' };
export const NOBODY_USER: ImageUser = { uid: 65534, gid: 65534, home: '/nonexistent' };

/** Unlike the official image's, with PostgreSQL before /usr/bin: the host may have client tools of its own there. */
function searchPath(major: PostgresMajor): string {
  return `/usr/local/sbin:/usr/local/bin:/usr/lib/postgresql/${major}/bin:/usr/sbin:/usr/bin:/sbin:/bin`;
}

const SERVICES_SOURCE = join(import.meta.dirname, '..', 'services');
/** The newest major: its client tools serve every older server. */
const CLIENT_MAJOR: PostgresMajor = 18;

const POSTGRES_IMAGES = new Map<string, PostgresMajor>([
  ['postgres:15', 15],
  ['postgres:16', 16],
  ['postgres:17', 17],
  ['postgres:18', 18],
]);

/** What an image is, apart from the files of PostgreSQL itself. */
export interface ImageDescription extends Omit<Image, 'layer'> {
  /** Whose server, or else client programs, it has. */
  major: PostgresMajor;
}

function describePostgres(major: PostgresMajor, locale: string): ImageDescription {
  // From 18 on the volume is one level higher, so that pg_upgrade --link can reach the old and the new side.
  const pgdata = major >= 18 ? `/var/lib/postgresql/${major}/docker` : '/var/lib/postgresql/data';
  const directories = [
    { path: '/var/lib/postgresql', mode: 0o1777, owner: POSTGRES_USER },
    { path: '/var/run/postgresql', mode: 0o3777, owner: POSTGRES_USER },
    { path: '/docker-entrypoint-initdb.d', mode: 0o755, owner: ROOT_USER },
  ];
  if (major < 18) directories.push({ path: pgdata, mode: 0o1777, owner: POSTGRES_USER });
  return {
    major,
    binds: [{ source: ENTRYPOINT_SOURCE, target: '/usr/local/bin/docker-entrypoint.sh', readOnly: true }],
    directories,
    entrypoint: ['docker-entrypoint.sh'],
    cmd: ['postgres'],
    env: {
      PATH: searchPath(major),
      PG_MAJOR: String(major),
      PGDATA: pgdata,
      LANG: locale,
    },
    user: ROOT_USER,
    stopSignal: 'SIGINT',
  };
}

function describeClient(locale: string): ImageDescription {
  return {
    major: CLIENT_MAJOR,
    binds: [],
    directories: [],
    entrypoint: ['sh'],
    cmd: [],
    env: { PATH: searchPath(CLIENT_MAJOR), LANG: locale },
    user: NOBODY_USER,
    stopSignal: 'SIGTERM',
  };
}

/**
 * Describes an image by the reference in a manifest.
 * @param locale what LANG is inside: the official image's en_US.utf8 where there is such a one
 * @throws ImageNotFound for every reference that the examples do not use
 */
export function describeImage(reference: string, locale: string): ImageDescription {
  const major = POSTGRES_IMAGES.get(reference);
  if (major !== undefined) return describePostgres(major, locale);
  if (reference === 'pgleap/sandbox-backup:1') return describeClient(locale);
  if (reference === 'pgleap/sandbox-service:1') {
    return {
      ...describeClient(locale),
      binds: [
        { source: process.execPath, target: '/usr/local/bin/node', readOnly: true },
        { source: SERVICES_SOURCE, target: '/app', readOnly: true },
      ],
      entrypoint: ['/usr/local/bin/node'],
      cmd: ['/app/service.ts'],
    };
  }
  const known = [...POSTGRES_IMAGES.keys(), 'pgleap/sandbox-service:1', 'pgleap/sandbox-backup:1'];
  throw new ImageNotFound(`The sandbox has no image ${reference}; it has ${known.join(', ')}.`);
}

/**
 * Finds an image of the sandbox, and makes its files below `cacheDir` when they are not there yet (downloads from npm and
 * PyPI; seconds to a minute, told on stderr). See `describeImage` for its arguments.
 */
export async function findImage(reference: string, cacheDir: string, locale: string): Promise<Image> {
  const image = describeImage(reference, locale);
  return { ...image, layer: await postgresLayer(cacheDir, image.major) };
}
