import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { createReadStream, existsSync, readFileSync } from 'node:fs';
import { copyFile, link, mkdir, mkdtemp, rename, rm, stat, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { pipeline } from 'node:stream/promises';
import { z } from 'zod';
import { run } from './command.ts';
import { cacheFolder, ClusterProblem, containerdSocket } from './layout.ts';
import { enterCluster } from './processes.ts';

/** One layer of an image: an uncompressed tar archive. */
export interface Layer {
  file: string;
  /** SHA-256 in hex. */
  sha256: string;
  size: number;
}

/** The `config` of an OCI image, as far as Kubernetes looks at it. */
export interface ImageConfig {
  Entrypoint?: string[];
  Cmd?: string[];
  Env?: string[];
  User?: string;
  WorkingDir?: string;
  Volumes?: Record<string, object>;
  ExposedPorts?: Record<string, object>;
  StopSignal?: string;
}

const imageCache = path.join(cacheFolder, 'images');
const LayerRecord = z.object({ sha256: z.string(), size: z.number() });

/**
 * Makes a layer once and keeps it in the cache.
 * @param key names what is in it; other contents need another key
 * @param make writes the tar archive to the file it is given
 */
export async function cachedLayer(key: string, make: (file: string, scratch: string) => Promise<void>): Promise<Layer> {
  const file = path.join(imageCache, `${key}.tar`);
  const record = path.join(imageCache, `${key}.json`);
  if (existsSync(record) && existsSync(file))
    return { file, ...LayerRecord.parse(JSON.parse(readFileSync(record, 'utf8'))) };
  await mkdir(imageCache, { recursive: true });
  const scratch = await mkdtemp(`${file}.part-`);
  try {
    const made = path.join(scratch, 'layer.tar');
    await make(made, scratch);
    const hash = createHash('sha256');
    await pipeline(createReadStream(made), hash);
    const facts = { sha256: hash.digest('hex'), size: (await stat(made)).size };
    await rename(made, file);
    await writeFile(`${record}.new`, JSON.stringify(facts));
    await rename(`${record}.new`, record);
    return { file, ...facts };
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

/** Packs a folder as it is, with its owners and modes; the same contents give the same bytes. */
export async function packFolder(folder: string, file: string): Promise<void> {
  await run('tar', [
    '--create',
    '--file',
    file,
    '--sort=name',
    '--mtime=@0',
    '--numeric-owner',
    '--directory',
    folder,
    '.',
  ]);
}

interface Blob {
  mediaType: string;
  digest: string;
  size: number;
}

const ctr = ['ctr', '--address', containerdSocket, '--namespace', 'k8s.io'];

/**
 * Makes an image of layers and a configuration and gives it to the cluster's containerd, unless it has that very image.
 * @param image.name with registry and tag, as the kubelet completes it: `docker.io/library/postgres:15`
 * @returns whether it had to be imported
 */
export async function importImage(image: { name: string; layers: Layer[]; config: ImageConfig }): Promise<boolean> {
  const config = Buffer.from(
    JSON.stringify({
      architecture: process.arch === 'x64' ? 'amd64' : process.arch,
      os: 'linux',
      config: image.config,
      rootfs: { type: 'layers', diff_ids: image.layers.map(({ sha256 }) => `sha256:${sha256}`) },
    }),
  );
  const manifest = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: blob('application/vnd.oci.image.config.v1+json', config),
      layers: image.layers.map(({ sha256, size }) => ({
        mediaType: 'application/vnd.oci.image.layer.v1.tar',
        digest: `sha256:${sha256}`,
        size,
      })),
    }),
  );
  const described = blob('application/vnd.oci.image.manifest.v1+json', manifest);
  if (await hasImage(image.name, described.digest)) return false;

  await mkdir(imageCache, { recursive: true });
  const folder = await mkdtemp(path.join(imageCache, 'import-'));
  try {
    const blobs = path.join(folder, 'blobs', 'sha256');
    await mkdir(blobs, { recursive: true });
    // A layer that containerd has from another image need not be sent again.
    const present = await run('nsenter', [...enterCluster(), ...ctr, 'content', 'list', '--quiet']);
    for (const layer of image.layers) {
      if (present.includes(layer.sha256)) continue;
      const target = path.join(blobs, layer.sha256);
      await link(layer.file, target).catch(() => copyFile(layer.file, target));
    }
    for (const content of [config, manifest]) await writeFile(path.join(blobs, sha256(content)), content);
    await writeFile(path.join(folder, 'oci-layout'), JSON.stringify({ imageLayoutVersion: '1.0.0' }));
    const annotations = { 'io.containerd.image.name': image.name };
    await writeFile(
      path.join(folder, 'index.json'),
      JSON.stringify({ schemaVersion: 2, manifests: [{ ...described, annotations }] }),
    );
    await streamInto(folder, [...ctr, 'images', 'import', '-']);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
  return true;
}

const sha256 = (content: Buffer) => createHash('sha256').update(content).digest('hex');

function blob(mediaType: string, content: Buffer): Blob {
  return { mediaType, digest: `sha256:${sha256(content)}`, size: content.length };
}

async function hasImage(name: string, digest: string): Promise<boolean> {
  const list = await run('nsenter', [...enterCluster(), ...ctr, 'images', 'list', `name==${name}`]);
  return list.includes(digest);
}

async function streamInto(folder: string, command: string[]): Promise<void> {
  const tar = spawn('tar', ['--create', '--directory', folder, '.'], { stdio: ['ignore', 'pipe', 'inherit'] });
  const taker = spawn('nsenter', [...enterCluster(), ...command], { stdio: ['pipe', 'ignore', 'pipe'] });
  let stderr = '';
  taker.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  const ended = new Promise<number | null>((resolve, reject) => taker.once('close', resolve).once('error', reject));
  await pipeline(tar.stdout, taker.stdin).catch(() => {});
  const code = await ended;
  if (code !== 0)
    throw new ClusterProblem(`containerd did not take the image (${command.join(' ')}):\n  ${stderr.trim()}`);
}
