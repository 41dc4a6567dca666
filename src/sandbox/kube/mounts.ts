import { chmod, chown, mkdir, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { dirname, join, normalize } from 'node:path';
import type { Mount } from '../runtime/types.ts';
import { volumeIdOf } from './controllers/volumes.ts';
import { ConfigProblem, expand, podField } from './env.ts';
import type { Container, Pod, PodVolume } from './objects.ts';
import type { Store } from './store.ts';
import type { Volumes } from './volumes.ts';

export interface MountContext {
  store: Store;
  volumes: Volumes;
  /** Holds the pod's own volumes; goes with the pod. */
  podDir: string;
}

/** Makes the host side of every mount of the container. Throws ConfigProblem when something it refers to is missing. */
export async function prepareMounts(
  context: MountContext,
  pod: Pod,
  container: Container,
  env: Record<string, string>,
): Promise<Mount[]> {
  const prepared = new Map<string, { path: string; readOnly: boolean }>();
  for (const volume of pod.spec.volumes ?? []) prepared.set(volume.name, await prepareVolume(context, pod, volume));
  const mounts: Mount[] = [];
  for (const mount of container.volumeMounts ?? []) {
    const volume = prepared.get(mount.name);
    if (volume === undefined) throw new ConfigProblem(`volume "${mount.name}" not found`);
    const subPath = mount.subPathExpr === undefined ? mount.subPath : expand(mount.subPathExpr, env);
    const source = subPath ? await subPathOf(volume.path, subPath) : volume.path;
    mounts.push({ source, target: mount.mountPath, readOnly: volume.readOnly || mount.readOnly === true });
  }
  // A mount inside another must come after it.
  return mounts.sort((a, b) => a.target.length - b.target.length);
}

/** Writes the current content of ConfigMaps and Secrets into the pod's volumes; what is missing now is left as it is. */
export async function refreshVolumes(context: MountContext, pod: Pod): Promise<void> {
  for (const volume of pod.spec.volumes ?? []) {
    if (volume.configMap === undefined && volume.secret === undefined && volume.projected === undefined) continue;
    await prepareVolume(context, pod, volume).catch((error: unknown) => {
      if (!(error instanceof ConfigProblem)) throw error;
    });
  }
}

async function subPathOf(root: string, subPath: string): Promise<string> {
  const clean = normalize(subPath);
  if (clean.startsWith('..') || clean.startsWith('/')) throw new ConfigProblem(`subPath ${subPath} leaves the volume`);
  const path = join(root, clean);
  const { mode } = await stat(root);
  // As the kubelet: a missing directory is made with the mode of the volume's root.
  const made = await stat(path).then(
    () => false,
    () => true,
  );
  if (made) {
    await mkdir(path, { recursive: true });
    await chmod(path, mode & 0o7777);
  }
  return path;
}

async function prepareVolume(context: MountContext, pod: Pod, volume: PodVolume) {
  const { store, podDir } = context;
  const claimSource = volume.persistentVolumeClaim;
  if (claimSource !== undefined) {
    const claim = store.get('persistentvolumeclaims', pod.metadata.namespace ?? '', claimSource.claimName);
    const persistent = store.get('persistentvolumes', '', claim?.spec.volumeName ?? '');
    const id = persistent === undefined ? undefined : volumeIdOf(persistent);
    if (id === undefined)
      throw new ConfigProblem(`claim "${claimSource.claimName}" has no volume of a driver that the sandbox has`);
    const path = context.volumes.directory(id);
    await giveToGroup(path, pod.spec.securityContext?.fsGroup);
    return { path, readOnly: claimSource.readOnly === true };
  }
  const path = join(podDir, 'volumes', volume.name);
  await mkdir(path, { recursive: true });
  if (volume.emptyDir !== undefined) {
    await chmod(path, 0o777);
    return { path, readOnly: false };
  }
  const files = filesOf(store, pod, volume);
  if (files === undefined)
    throw new ConfigProblem(`volume "${volume.name}" is of a type that the sandbox doesn't have`);
  await writeFiles(path, files);
  return { path, readOnly: true };
}

/** As the kubelet with fsGroupChangePolicy OnRootMismatch; what is below the root keeps its owner. */
async function giveToGroup(path: string, fsGroup: number | undefined): Promise<void> {
  // Without root the users of all containers are one and the same on the host, and own the volume already.
  if (fsGroup === undefined || process.getuid?.() !== 0) return;
  const { uid, gid, mode } = await stat(path);
  if (gid === fsGroup) return;
  await chown(path, uid, fsGroup);
  await chmod(path, (mode & 0o7777) | 0o2770);
}

interface ProjectedFile {
  path: string;
  content: Buffer;
  mode: number;
}

/** Brings a directory of projected files up to date: what is no longer there goes. */
async function writeFiles(root: string, files: ProjectedFile[]): Promise<void> {
  const present = await readdir(root, { recursive: true, withFileTypes: true });
  for (const entry of present) {
    const path = join(entry.parentPath, entry.name);
    if (entry.isFile() && !files.some((file) => join(root, file.path) === path)) await rm(path);
  }
  for (const { path, content, mode } of files) {
    const target = join(root, normalize(path));
    await mkdir(dirname(target), { recursive: true });
    await writeFile(target, content);
    await chmod(target, mode);
  }
}

type Item = { key: string; path: string; mode?: number };

function filesOf(store: Store, pod: Pod, volume: PodVolume): ProjectedFile[] | undefined {
  const { configMap, secret, projected, downwardAPI } = volume;
  if (configMap !== undefined) return mapFiles(store, pod, configMap, configMap.defaultMode);
  if (secret !== undefined)
    return secretFiles(store, pod, { ...secret, name: secret.secretName ?? '' }, secret.defaultMode);
  if (downwardAPI !== undefined) return fieldFiles(store, pod, downwardAPI.items ?? [], downwardAPI.defaultMode);
  return projected?.sources?.flatMap((source) => {
    if (source.configMap !== undefined) return mapFiles(store, pod, source.configMap, projected.defaultMode);
    if (source.secret !== undefined) return secretFiles(store, pod, source.secret, projected.defaultMode);
    return fieldFiles(store, pod, source.downwardAPI?.items ?? [], projected.defaultMode);
  });
}

interface KeySource {
  name?: string;
  items?: Item[];
  optional?: boolean;
}

function mapFiles(store: Store, pod: Pod, source: KeySource, mode: number | undefined): ProjectedFile[] {
  const found = store.get('configmaps', pod.metadata.namespace ?? '', source.name ?? '');
  const text = Object.entries(found?.data ?? {}).map(([key, value]) => [key, Buffer.from(value)] as const);
  const binary = Object.entries(found?.binaryData ?? {}).map(
    ([key, value]) => [key, Buffer.from(value, 'base64')] as const,
  );
  return pick(source, found === undefined ? undefined : new Map([...text, ...binary]), mode, 'configmap');
}

function secretFiles(store: Store, pod: Pod, source: KeySource, mode: number | undefined): ProjectedFile[] {
  const found = store.get('secrets', pod.metadata.namespace ?? '', source.name ?? '');
  const data = Object.entries(found?.data ?? {}).map(([key, value]) => [key, Buffer.from(value, 'base64')] as const);
  return pick(source, found === undefined ? undefined : new Map(data), mode, 'secret');
}

function pick(
  { name, items, optional }: KeySource,
  data: Map<string, Buffer> | undefined,
  mode: number | undefined,
  kind: string,
): ProjectedFile[] {
  if (data === undefined) {
    if (optional === true) return [];
    throw new ConfigProblem(`${kind} "${name}" not found`);
  }
  const wanted = items ?? [...data.keys()].map((key): Item => ({ key, path: key }));
  return wanted.flatMap((item) => {
    const content = data.get(item.key);
    if (content !== undefined) return { path: item.path, content, mode: item.mode ?? mode ?? 0o644 };
    if (optional === true) return [];
    throw new ConfigProblem(`references non-existent ${kind} key: ${item.key}`);
  });
}

type FieldItem = { path: string; fieldRef?: { fieldPath: string }; mode?: number };

function fieldFiles(store: Store, pod: Pod, items: FieldItem[], mode: number | undefined): ProjectedFile[] {
  return items.map((item) => ({
    path: item.path,
    content: Buffer.from(podField(store, pod, item.fieldRef?.fieldPath ?? '', pod.status?.podIP ?? '')),
    mode: item.mode ?? mode ?? 0o644,
  }));
}
