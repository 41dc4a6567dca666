import { existsSync, readFileSync } from 'node:fs';
import { rm, writeFile } from 'node:fs/promises';
import { clusterPids, componentPids, endAll, removeCgroups } from './cgroups.ts';
import { cacheFolder, ClusterProblem, stateFolder } from './layout.ts';
import { foreignLink, linkExists, removeLink } from './network.ts';
import { stopComponent } from './processes.ts';
import { step } from './progress.ts';
import { readState } from './state.ts';

/**
 * Removes the cluster with everything it made: processes, mounts (they end with the processes), cgroups, network, kernel
 * settings, files. May be called on what a crash left. The cache stays unless `cache` says otherwise.
 */
export async function tearDown({ cache }: { cache: boolean }): Promise<void> {
  // The record may be damaged; what it describes must go all the same.
  const state = await Promise.resolve()
    .then(readState)
    .catch(() => undefined);
  if (linkExists() && !existsSync(stateFolder) && clusterPids().length === 0) throw new ClusterProblem(foreignLink);
  await step('ending every process', async () => {
    // First what would start others again.
    if (componentPids('kubelet').length > 0) await stopComponent({ name: 'kubelet', graceMs: 1000 });
    await endAll(clusterPids, 0);
  });
  await removeCgroups();
  await removeLink();
  for (const [name, value] of Object.entries(state?.sysctls ?? {})) {
    if (readFileSync(`/proc/sys/${name}`, 'utf8').trim() !== value) await writeFile(`/proc/sys/${name}`, value);
  }
  const mounts = readFileSync('/proc/self/mounts', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[1] ?? '');
  const mounted = mounts.filter((at) => at.startsWith(`${stateFolder}/`));
  // Deleting would go through them.
  if (mounted.length > 0)
    throw new ClusterProblem(`Something else mounted ${mounted.join(', ')}: unmount it and run cluster:down again.`);
  await step(`deleting ${stateFolder}`, () => rm(stateFolder, { recursive: true, force: true }));
  if (cache) await step(`deleting ${cacheFolder}`, () => rm(cacheFolder, { recursive: true, force: true }));
}
