/** The artifact folder, with something wrong in it: what can be, and the activities that use it. */
import { execFileSync } from 'node:child_process';
import {
  appendFile,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  rename,
  rm,
  symlink,
  truncate,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, beforeEach } from 'vitest';
import { createArtifactActivities } from '../../src/activities/artifacts.ts';
import { openStore, writeArtifact } from '../../src/activities/artifacts/store.ts';
import type { Artifact, World } from '../../src/domain/facts.ts';
import type { FailureType } from '../../src/domain/failures.ts';
import { specSchema } from '../../src/domain/spec.ts';
import { newStatus } from '../../src/domain/state.ts';
import { facts } from '../domain/status.ts';
import { pod, startExecServer, type Manners } from '../activities/exec-server.ts';

const world: World = { clusterUid: 'c', upgradeId: 'u0badcafe', startedAt: '2026-01-01T00:00:00Z', namespace: 'db' };

export let folder: string;
export let home: string;
let activities: ReturnType<typeof createArtifactActivities>;
let server: Awaited<ReturnType<typeof startExecServer>>;
let dump: Artifact;
let fingerprints: [Artifact, Artifact];

export const inFolder = (...names: string[]) => join(folder, ...names);
const store = () => inFolder('store');
const lines = Array.from({ length: 20_000 }, (_, row) => `table\tapp\tt${String(row).padStart(5, '0')}\t1`).join('\n');

const { database } = facts.cluster;
/** Larger than a disk that is full. */
const manifest = `kind: ${database.workload.kind}
metadata: { name: ${database.workload.name} }
spec: { template: { spec: { containers: [{ name: ${database.pod.container}, image: postgres:16 }] } } } # ${'x'.repeat(5000)}
`;
const spec = specSchema.parse({
  database: { namespace: database.workload.namespace, manifests: [{ name: 'db/postgres.yaml', text: manifest }] },
  target: { image: 'postgres:18' },
  services: [],
});

const manners: Manners = {};

interface Use {
  activity: string;
  /** The artifact that meets the fault, and what is written before it gets its name. */
  file: string;
  part?: () => string;
  run: () => Promise<unknown>;
}

/** One that writes what is not there yet, one that has written it before, and so on. */
const writers: Use[] = [
  {
    activity: 'copyOut',
    file: 'new',
    part: () => `new.${dump.sha512.slice(0, 16)}.part`,
    run: () => activities.copyOut({ world, pod, path: '/pgleap/dump', ...dump, name: 'new' }),
  },
  {
    activity: 'editManifest',
    file: 'manifests/db/postgres.yaml',
    part: () => 'manifests/db/postgres.yaml.part',
    run: () => activities.editManifest({ world, spec, database, source: facts.source }),
  },
  {
    activity: 'writeReport',
    file: 'report.html',
    part: () => 'report.html.part',
    run: () =>
      activities.writeReport({ world, state: newStatus('pgleap/db/postgres', world.upgradeId, world.startedAt) }),
  },
];
const again: Use = {
  activity: 'copyOut, again',
  file: 'dump',
  run: () => activities.copyOut({ world, pod, path: '/pgleap/dump', ...dump }),
};
const readers: Use[] = [
  {
    activity: 'copyIn',
    file: 'dump',
    run: async () => {
      await activities.copyIn({ world, artifact: dump, pod, path: '/pgleap/in' });
      // How long it took is new each time.
      return await readFile(inFolder('pod', 'in'), 'utf8');
    },
  },
  {
    activity: 'compareFingerprints',
    file: 'b',
    run: () => activities.compareFingerprints({ world, a: fingerprints[0], b: fingerprints[1] }),
  },
];

interface Fault {
  what: string;
  /** What the activity ends with; `mended` when it puts that right by itself. */
  ends: FailureType | 'mended';
  /** Words for the person who must put it right. */
  says?: RegExp;
  onlyRoot?: true;
  /** Resolves with what takes the fault away again. */
  harm: (use: Use) => Promise<() => Promise<unknown> | void>;
}

/** Moves what is there out of the way and lets `put` make something else there. */
async function instead(at: string, put: (at: string) => Promise<unknown> | void): Promise<() => Promise<void>> {
  const there = await lstat(at).catch(() => undefined);
  if (there !== undefined) await rename(at, `${folder}/aside`);
  await put(at);
  return async () => {
    await rm(at, { recursive: true, force: true });
    if (there !== undefined) await rename(`${folder}/aside`, at);
  };
}

const mount = (...argv: string[]) => execFileSync('mount', argv);
const toFile = (at: string) => symlink(inFolder('elsewhere', 'file'), at);
const toFolder = (at: string) => symlink(inFolder('elsewhere'), at);
const aPipe = (at: string) => void execFileSync('mkfifo', [at]);
const aFile = (at: string) => writeFile(at, 'in the way');
const moved = /move it away, then retry/;

const ofAll: Fault[] = [
  {
    what: 'the folder is gone',
    ends: 'ArtifactMissing',
    says: /then retry/,
    harm: () => instead(store(), () => undefined),
  },
  {
    what: 'the folder’s disk is not mounted',
    ends: 'ArtifactMissing',
    says: /then retry/,
    harm: () => instead(store(), (at) => mkdir(at)),
  },
  { what: 'a file in place of the upgrade’s folder', ends: 'Refused', says: moved, harm: () => instead(home, aFile) },
  {
    what: 'a folder in place of the file',
    ends: 'Refused',
    says: moved,
    harm: ({ file }) => instead(join(home, file), (at) => mkdir(at)),
  },
  {
    what: 'a link in place of the file',
    ends: 'Refused',
    says: moved,
    harm: ({ file }) => instead(join(home, file), toFile),
  },
  {
    what: 'a pipe in place of the file',
    ends: 'Refused',
    says: moved,
    harm: ({ file }) => instead(join(home, file), aPipe),
  },
];

const ofWriting: Fault[] = [
  {
    what: 'the disk is full',
    ends: 'NoSpace',
    says: /make room, then retry/,
    onlyRoot: true,
    harm: async () => {
      mount('-t', 'tmpfs', '-o', 'size=4k', 'pgleap-test', home);
      return () => void execFileSync('umount', [home]);
    },
  },
  {
    what: 'the disk is read-only',
    ends: 'AccessDenied',
    says: /let its user write there, then retry/,
    onlyRoot: true,
    harm: async () => {
      mount('--bind', home, home);
      mount('-o', 'remount,bind,ro', home);
      return () => void execFileSync('umount', [home]);
    },
  },
  {
    what: 'a link in place of the upgrade’s folder',
    ends: 'Refused',
    says: moved,
    harm: () => instead(home, toFolder),
  },
  {
    what: 'a link in place of the unfinished file',
    ends: 'Refused',
    says: moved,
    harm: ({ part }) => instead(join(home, part?.() ?? ''), toFile),
  },
  {
    what: 'a pipe in place of the unfinished file',
    ends: 'Refused',
    says: moved,
    harm: ({ part }) => instead(join(home, part?.() ?? ''), aPipe),
  },
  {
    what: 'rubbish in the unfinished file',
    ends: 'mended',
    harm: ({ part }) => instead(join(home, part?.() ?? ''), (at) => writeFile(at, lines.replaceAll('t', 'x'))),
  },
];

/** Of a file that was written before. Its first size: what is changed keeps it. */
const ofContent = (ends: Fault['ends']): Fault[] => {
  const says = /put the recorded file there, then retry/;
  const change = (what: string, put: (at: string) => Promise<unknown>): Fault => ({
    what,
    ends,
    says,
    harm: ({ file }) => instead(join(home, file), put),
  });
  const damaged = async (at: string, damage: () => Promise<unknown>) => {
    await writeFile(at, lines);
    await damage();
  };
  return [
    change('the file is missing', async () => {}),
    change('the file is empty', (at) => writeFile(at, '')),
    change('the file is truncated', (at) => damaged(at, () => truncate(at, lines.length - 1))),
    change('the file is longer', (at) => damaged(at, () => appendFile(at, '\n'))),
    change('one byte of the file is another', (at) => writeFile(at, lines.replace(/1$/, '2'))),
    change('zeros at the file’s end, as after a power cut', (at) =>
      writeFile(at, `${lines.slice(0, -4096)}${'\0'.repeat(4096)}`),
    ),
  ];
};

/** A folder of a test's own, and what the activities find in it. */
export function inFolderOfOwn(): void {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'pgleap-faults-'));
    home = join(store(), world.upgradeId);
    manners.paths = { '/pgleap': inFolder('pod') };
    server = await startExecServer(manners);
  });

  afterAll(async () => {
    await server?.close();
    await rm(folder, { recursive: true, force: true });
  });

  beforeEach(async () => {
    for (const name of await readdir(folder)) await rm(inFolder(name), { recursive: true });
    for (const name of ['pod', 'elsewhere']) await mkdir(inFolder(name));
    await writeFile(inFolder('elsewhere', 'file'), 'of somebody else');
    const opened = await openStore(store());
    activities = createArtifactActivities({ store: opened, kubeConfig: server.kc });
    const made = await Promise.all(['dump', 'a', 'b'].map((name) => writeArtifact(opened, world, name, lines)));
    [dump, ...fingerprints] = made as [Artifact, Artifact, Artifact];
    await writeFile(inFolder('pod', 'dump'), lines);
  });
}

export const cells = [
  ...writers.flatMap((use) => [...ofAll, ...ofWriting].map((fault) => ({ use, fault }))),
  ...ofAll.map((fault) => ({ use: again, fault })),
  ...ofContent('mended').map((fault) => ({ use: again, fault })),
  ...readers.flatMap((use) => [...ofAll, ...ofContent('ArtifactMissing')].map((fault) => ({ use, fault }))),
];
