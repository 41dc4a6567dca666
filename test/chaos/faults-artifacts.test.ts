/** The artifact folder, with something wrong in it: every activity that uses it by every fault. */
import { createHash } from 'node:crypto';
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { failureOf, run } from '../activities/environment.ts';
import { cells, folder, home, inFolder, inFolderOfOwn } from './artifact-scenes.ts';
import { tell } from './table.ts';

inFolderOfOwn();

/** All below a folder: of files a digest, of anything else what it is. */
async function below(top: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const entry of await readdir(top, { withFileTypes: true, recursive: true })) {
    const at = join(entry.parentPath, entry.name);
    if (entry.isFile())
      found[at] = createHash('sha256')
        .update(await readFile(at))
        .digest('hex');
    else if (!entry.isDirectory()) found[at] = entry.isSymbolicLink() ? 'link' : 'other';
  }
  return found;
}

for (const { use, fault } of cells) {
  const { ends, says = /./, harm, what } = fault;
  // Only root may mount.
  const may = fault.onlyRoot !== true || process.getuid?.() === 0;
  test.skipIf(!may)(`${use.activity}: ${what}`, { timeout: 30_000 }, async (context) => {
    const good = await run(use.run);
    await rm(inFolder('pod', 'in'), { force: true });
    if (use.part !== undefined) await rm(join(home, use.file));
    const heal = await harm(use);
    try {
      const before = await below(folder);
      if (ends === 'mended') expect(await run(use.run)).toEqual(good);
      else {
        const { message } = await failureOf(run(use.run), ends, []);
        expect(message).toMatch(says);
        // An unfinished file may stay, for the next attempt to go on with. Nothing else came, went or changed.
        const after = Object.entries(await below(folder)).filter(([at]) => at in before || !at.endsWith('.part'));
        expect(Object.fromEntries(after)).toEqual(before);
      }
    } finally {
      await heal();
    }
    expect(await run(use.run), 'when it is right again').toEqual(good);
    tell(context, 'faults of the artifact folder', { activity: use.activity, fault: what, outcome: ends });
  });
}
