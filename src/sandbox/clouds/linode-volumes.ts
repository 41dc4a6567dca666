import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { z } from 'zod';

const volumeSchema = z.object({
  id: z.int(),
  label: z.string(),
  status: z.enum(['creating', 'active', 'resizing', 'contact_support']),
  size: z.int(),
  region: z.string(),
  linode_id: z.int().nullable(),
  linode_label: z.string().nullable(),
  filesystem_path: z.string(),
  hardware_type: z.literal('nvme'),
  encryption: z.literal('disabled'),
  io_ready: z.boolean(),
  tags: z.array(z.string()),
  created: z.string(),
  updated: z.string(),
});

const keptSchema = z.object({
  volume: volumeSchema,
  /** Set while the copy runs, so that a restart begins it again. */
  cloneOf: z.int().optional(),
});

/** A volume as the Linode API shows it. Times are UTC without a zone, as there; `size` is in GB. */
type LinodeVolume = z.infer<typeof volumeSchema>;

type Kept = z.infer<typeof keptSchema>;

interface LinodeEvent {
  id: number;
  action: string;
  created: string;
  username: string;
  entity: { id: number; label: string; type: 'volume'; url: string };
  secondary_entity: null;
  percent_complete: number;
  status: 'started' | 'finished' | 'failed';
}

/** What the API answers instead of doing what it was asked. */
export class Refusal extends Error {
  readonly status: number;
  readonly errors: { field?: string; reason: string }[];

  constructor(status: number, reason: string, field?: string) {
    super(reason);
    this.status = status;
    this.errors = [field === undefined ? { reason } : { field, reason }];
  }
}

/** Volumes that are directories. Numeric ids are never used twice, also not after a restart on the same folder. */
export interface VolumeStore {
  list(): LinodeVolume[];
  events(): LinodeEvent[];
  /** Throws a 404 `Refusal` for an unknown id, as all methods that take one. */
  get(id: number): LinodeVolume;
  /** Where the volume's bytes are on this machine. */
  directory(id: number): string;
  /** A volume that is `active` at once; sizes below the provider's 10 GB are refused. */
  create(wanted: { label: string; size: number; region?: string; tags?: string[] }): LinodeVolume;
  /** Answers at once with a volume that is `creating`; it is `active` when a full copy of the bytes lies there. */
  clone(id: number, label: string): LinodeVolume;
  attach(id: number, linodeId: number): LinodeVolume;
  /** Resolves when `linode_id` is null, after the delay that is ordered. */
  detach(id: number): Promise<void>;
  resize(id: number, size: number): LinodeVolume;
  update(id: number, changes: { label?: string; tags?: string[] }): LinodeVolume;
  delete(id: number): void;
  /** Resolves when no copy and no removal is under way. */
  idle(): Promise<void>;
}

/** Shortest times that work at the provider takes, in milliseconds. A change counts for what begins after it. */
export interface Delays {
  /** From `creating` to `active` of a clone; a real provider takes minutes. */
  cloneMs: number;
  /** From the answer to a detach until `linode_id` is null; a real provider takes seconds, and at times minutes. */
  detachMs: number;
}

export interface VolumeStoreOptions {
  stateDir: string;
  region: string;
  delays: Delays;
  log: (line: string) => void;
}

export const SMALLEST_GB = 10;
const LARGEST_GB = 16384;

export function openVolumes({ stateDir, region, delays, log }: VolumeStoreOptions): VolumeStore {
  mkdirSync(stateDir, { recursive: true });
  const kept = new Map<number, Kept>();
  const events: LinodeEvent[] = [];
  const jobs = new Set<Promise<unknown>>();
  const detaching = new Map<number, Promise<void>>();
  const counter = join(stateDir, 'next-id');
  for (const name of readdirSync(stateDir)) {
    const file = join(stateDir, name, 'volume.json');
    if (existsSync(file)) kept.set(Number(name), keptSchema.parse(JSON.parse(readFileSync(file, 'utf8'))));
  }

  const directory = (id: number): string => join(stateDir, String(find(id).volume.id), 'data');

  function find(id: number): Kept {
    const found = kept.get(id);
    if (!found) throw new Refusal(404, 'Not found');
    return found;
  }

  function save(entry: Kept): LinodeVolume {
    const folder = join(stateDir, String(entry.volume.id));
    entry.volume.updated = now();
    kept.set(entry.volume.id, entry);
    mkdirSync(join(folder, 'data'), { recursive: true });
    writeFileSync(join(folder, 'volume.json.new'), `${JSON.stringify(entry, undefined, 2)}\n`);
    renameSync(join(folder, 'volume.json.new'), join(folder, 'volume.json'));
    return structuredClone(entry.volume);
  }

  function event(action: string, { id, label }: LinodeVolume, status: LinodeEvent['status'] = 'finished'): LinodeEvent {
    const made: LinodeEvent = {
      id: events.length + 1,
      action,
      created: now(),
      username: 'sandbox',
      entity: { id, label, type: 'volume', url: `/v4/volumes/${id}` },
      secondary_entity: null,
      percent_complete: status === 'finished' ? 100 : 0,
      status,
    };
    events.push(made);
    log(`linode: ${action} ${id} (${label}) ${status}`);
    return made;
  }

  function nextId(): number {
    const id = existsSync(counter) ? Number(readFileSync(counter, 'utf8')) : 100_001;
    writeFileSync(counter, String(id + 1));
    return id;
  }

  function checkLabel(label: string, except?: number): void {
    if (label.length < 1 || label.length > 32) throw new Refusal(400, 'Length must be 1-32 characters', 'label');
    if (!/^[a-zA-Z]((?!--|__)[a-zA-Z0-9-_])+$/.test(label)) {
      throw new Refusal(400, 'Must only use ASCII letters, numbers, underscores, and dashes', 'label');
    }
    for (const { volume } of kept.values()) {
      if (volume.label === label && volume.id !== except) {
        throw new Refusal(400, 'Label must be unique among your volumes', 'label');
      }
    }
  }

  function fresh(label: string, size: number, status: LinodeVolume['status'], tags: string[]): LinodeVolume {
    return {
      id: nextId(),
      label,
      status,
      size,
      region,
      linode_id: null,
      linode_label: null,
      filesystem_path: `/dev/disk/by-id/scsi-0Linode_Volume_${label}`,
      hardware_type: 'nvme',
      encryption: 'disabled',
      io_ready: false,
      tags,
      created: now(),
      updated: now(),
    };
  }

  async function copy(entry: Kept, source: string): Promise<void> {
    const { id } = entry.volume;
    const began = event('volume_clone', entry.volume, 'started');
    const started = Date.now();
    const target = join(stateDir, String(id), 'data');
    rmSync(target, { recursive: true, force: true });
    mkdirSync(target, { recursive: true });
    const [code, output] = await run('cp', ['-a', '--reflink=auto', `${source}/.`, target]);
    await sleep(Math.max(0, delays.cloneMs - (Date.now() - started)));
    if (kept.get(id) !== entry) return;
    began.status = code === 0 ? 'finished' : 'failed';
    began.percent_complete = code === 0 ? 100 : began.percent_complete;
    if (code !== 0) log(`linode: copy into volume ${id} failed: ${output}`);
    entry.volume.status = code === 0 ? 'active' : 'contact_support';
    delete entry.cloneOf;
    save(entry);
  }

  async function letGo(entry: Kept): Promise<void> {
    if (delays.detachMs > 0) await sleep(delays.detachMs);
    if (kept.get(entry.volume.id) !== entry) return;
    entry.volume.linode_id = null;
    entry.volume.linode_label = null;
    entry.volume.io_ready = false;
    event('volume_detach', entry.volume);
    save(entry);
  }

  function begin(entry: Kept, source: string): void {
    background(copy(entry, source));
  }

  function background(work: Promise<unknown>): void {
    const running = work
      .catch((error: unknown) => log(`linode: ${String(error)}`))
      .finally(() => {
        jobs.delete(running);
      });
    jobs.add(running);
  }

  for (const entry of kept.values()) {
    if (entry.cloneOf !== undefined && kept.has(entry.cloneOf)) begin(entry, directory(entry.cloneOf));
  }

  return {
    list: () => [...kept.values()].map(({ volume }) => structuredClone(volume)).sort((a, b) => a.id - b.id),
    events: () => structuredClone(events).reverse(),
    get: (id) => structuredClone(find(id).volume),
    directory,
    create({ label, size, region: wantedRegion = region, tags = [] }) {
      checkLabel(label);
      checkSize(size);
      if (wantedRegion !== region) throw new Refusal(400, 'region is not valid', 'region');
      const volume = save({ volume: fresh(label, size, 'active', tags) });
      // A new ext4 file system has it, and initdb refuses a volume's root because of it: here as there.
      mkdirSync(join(directory(volume.id), 'lost+found'), { mode: 0o700 });
      event('volume_create', volume);
      return volume;
    },
    clone(id, label) {
      const source = find(id);
      checkActive(source, 'cloned');
      checkLabel(label);
      const entry: Kept = { volume: fresh(label, source.volume.size, 'creating', []), cloneOf: id };
      const volume = save(entry);
      begin(entry, directory(id));
      return volume;
    },
    attach(id, linodeId) {
      const entry = find(id);
      if (entry.volume.linode_id !== null && entry.volume.linode_id !== linodeId) {
        throw new Refusal(400, `Volume ${id} is already attached`, 'volume_id');
      }
      checkActive(entry, 'attached');
      if (detaching.has(id)) throw new Refusal(400, 'Linode busy.');
      entry.volume.linode_id = linodeId;
      entry.volume.linode_label = `node-${linodeId}`;
      entry.volume.io_ready = true;
      event('volume_attach', entry.volume);
      return save(entry);
    },
    detach(id) {
      const entry = find(id);
      const under = detaching.get(id);
      if (under !== undefined) return under;
      const begun = letGo(entry).finally(() => detaching.delete(id));
      detaching.set(id, begun);
      background(begun);
      return begun;
    },
    resize(id, size) {
      const entry = find(id);
      checkActive(entry, 'resized');
      checkSize(size);
      if (size < entry.volume.size) throw new Refusal(400, 'Volumes can only be resized up', 'size');
      entry.volume.size = size;
      event('volume_resize', entry.volume);
      return save(entry);
    },
    update(id, { label, tags }) {
      const entry = find(id);
      if (label !== undefined) {
        checkLabel(label, id);
        entry.volume.label = label;
        entry.volume.filesystem_path = `/dev/disk/by-id/scsi-0Linode_Volume_${label}`;
      }
      if (tags !== undefined) entry.volume.tags = tags;
      event('volume_update', entry.volume);
      return save(entry);
    },
    delete(id) {
      const { volume } = find(id);
      if (volume.linode_id !== null) throw new Refusal(400, 'Volume must be detached before it can be deleted');
      // Not documented; the stricter of the two possible answers is the safer one to be tried against.
      if (volume.status === 'creating') throw new Refusal(400, 'Volume is being created');
      kept.delete(id);
      const folder = join(stateDir, String(id));
      rmSync(join(folder, 'volume.json'));
      // Thousands of files take seconds, in which nobody else would be answered if this waited.
      background(run('rm', ['-rf', folder]));
      event('volume_delete', volume);
    },
    idle: async () => {
      while (jobs.size > 0) await Promise.all(jobs);
    },
  };
}

function checkSize(size: number): void {
  if (size < SMALLEST_GB || size > LARGEST_GB) {
    throw new Refusal(400, `Must be ${SMALLEST_GB}-${LARGEST_GB}`, 'size');
  }
}

function checkActive({ volume }: Kept, what: string): void {
  if (volume.status !== 'active') throw new Refusal(400, `Only active volumes can be ${what}`);
}

/** The API's time format: UTC, whole seconds, no zone. */
function now(): string {
  return new Date().toISOString().slice(0, 19);
}

function run(command: string, argv: string[]): Promise<[code: number | null, output: string]> {
  return new Promise((resolve) => {
    const child = spawn(command, argv, { stdio: ['ignore', 'ignore', 'pipe'] });
    let output = '';
    child.stderr.on('data', (chunk: Buffer) => {
      output = (output + chunk.toString()).slice(-2000);
    });
    child.on('error', (error) => resolve([null, error.message]));
    child.on('close', (code) => resolve([code, output]));
  });
}
