import { copyFile, mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { reportFiles } from '../domain/report/report.ts';
import type { UpgradeStatus } from '../domain/state.ts';

/**
 * Writes the report and the edited manifests into `folder`; returns what was written. The report is made of the status, so
 * it needs no worker's files; manifests are copied where the worker's artifact folder is on this machine.
 */
export async function saveReport(status: UpgradeStatus, folder: string): Promise<string[]> {
  await mkdir(folder, { recursive: true });
  const written: string[] = [];
  for (const { name, text } of reportFiles(status)) {
    await writeFile(path.join(folder, name), text);
    written.push(path.join(folder, name));
  }
  const store = status.plan?.facts?.artifacts.folder;
  if (store === undefined) return written;
  for (const { name } of status.gathered.artifacts.filter((artifact) => artifact.name.startsWith('manifests/'))) {
    const to = path.join(folder, name);
    await mkdir(path.dirname(to), { recursive: true });
    try {
      await copyFile(path.join(store, status.upgradeId, name), to);
      written.push(to);
    } catch (error) {
      if (!(error instanceof Error && 'code' in error && error.code === 'ENOENT')) throw error;
      // The worker is on another machine: its folder is named in the report.
    }
  }
  return written;
}
