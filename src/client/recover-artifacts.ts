/** What lies in an upgrade's artifact folder, beside what its journal says was copied there. */
import { readdir, stat } from 'node:fs/promises';
import path from 'node:path';
import { sha512OfFile } from '../activities/artifacts/store.ts';
import type { Progress } from '../activities/types.ts';
import type { Artifact } from '../domain/facts.ts';
import { bytesText, duration } from '../domain/text.ts';
import { progressText } from './text.ts';

const says = {
  agrees: 'SHA-512 agrees with the journal',
  differs: 'DIFFERS from what the journal says was copied',
  missing: 'IS NOT THERE, but the journal says that it was copied',
  unreadable: 'cannot be read',
  unchecked: 'in its size; SHA-512 not computed',
  unknown: 'not in the journal',
};

export interface SeenFile {
  name: string;
  /** null when it is missing, as the next. */
  bytes: number | null;
  /** When it was last written. */
  at: string | null;
  /** How it compares with the journal. A size that differs needs no checksum. */
  compared: keyof typeof says;
}

/** `tell` hears how far the checksums are; without it none is computed. Throws when the folder cannot be listed. */
export async function seeFiles(
  folder: string,
  kept: readonly Artifact[],
  tell: ((progress: Progress) => void) | null,
): Promise<SeenFile[]> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const names = entries
    .filter((entry) => entry.isFile())
    .map((entry) => path.relative(folder, path.join(entry.parentPath, entry.name)));
  const seen: SeenFile[] = [];
  // Nothing is opened under a name that only the journal has: it may lead anywhere.
  for (const name of names.toSorted()) {
    const file = path.join(folder, name);
    const { size, mtime } = await stat(file);
    const known = kept.find((artifact) => artifact.name === name);
    seen.push({ name, bytes: size, at: mtime.toISOString(), compared: await compare(file, size, known, tell) });
  }
  const missing = kept.filter(({ name }) => !names.includes(name));
  return [...seen, ...missing.map(({ name }) => ({ name, bytes: null, at: null, compared: 'missing' as const }))];
}

async function compare(
  file: string,
  size: number,
  known: Artifact | undefined,
  tell: ((progress: Progress) => void) | null,
): Promise<SeenFile['compared']> {
  if (known === undefined) return 'unknown';
  if (size !== known.bytes) return 'differs';
  if (tell === null) return 'unchecked';
  try {
    const { sha512 } = await sha512OfFile(file, `SHA-512 of ${known.name}`, tell);
    return sha512 === known.sha512 ? 'agrees' : 'differs';
  } catch {
    return 'unreadable';
  }
}

const everyMs = 2000;

/** Says progress when it has taken two seconds, and every two seconds from then on. */
export function seldom(say: (text: string) => void): (progress: Progress) => void {
  let last = Date.now();
  return (progress) => {
    const now = Date.now();
    if (now - last < everyMs) return;
    last = now;
    say(progressText(progress).trim());
  };
}

export function filesText(folder: string | null, files: readonly SeenFile[], now: number): string {
  if (folder === null) return 'Its artifact folder is not on this machine.';
  if (files.length === 0) return `Artifacts: none in ${folder}`;
  const width = Math.max(...files.map(({ name }) => name.length));
  return [
    `Artifacts in ${folder}:`,
    ...files.map(({ name, bytes, at, compared }) => {
      const size = (bytes === null ? '' : bytesText(bytes)).padStart(8);
      const age = (at === null ? '' : `${duration(Math.max(0, now - Date.parse(at)) / 1000)} old`).padEnd(16);
      return `  ${name.padEnd(width)}  ${size}  ${age}  ${says[compared]}`;
    }),
  ].join('\n');
}
