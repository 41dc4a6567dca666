/**
 * restore: the dump into the target.
 *
 * 1. Begun again: the target's server empty again, on the new volume.
 * 2. The dump copied in from the artifact store, its checksum verified again; imported.
 * 3. Beside that, settings that lived inside PGDATA carried over, item by item or refused: they count from the next start.
 *
 * Undone by: what replace and deploy registered.
 * Killed here: the detached import is found again; one that was lost with its pod begins in an empty server, by itself.
 */
import { phaseRow } from '../../domain/state.ts';
import type { CarriedItem } from '../../domain/facts.ts';
import { act } from '../activities.ts';
import { evenIfLost } from '../lost.ts';
import { fencedTarget } from './deploy.ts';
import { failOnImportErrors } from './trial.ts';
import { all, database, needed, note, onArtifacts, resolved, runMark, type Run } from '../run.ts';

export async function restore(run: Run): Promise<void> {
  await evenIfLost(run, 'restore', restoreOnce);
}

async function restoreOnce(run: Run): Promise<void> {
  const { gathered } = run;
  const { world } = resolved(run);
  const { tries } = phaseRow(run.status, 'restore');
  if (tries > 1) {
    gathered.target = await act('emptyTarget', 'begin the target’s server anew', {
      world,
      database: database(run),
      claim: needed(gathered.newClaim, 'the new claim'),
      target: await fencedTarget(run),
    });
  }
  const server = needed(gathered.target, 'the target');
  const artifact = needed(gathered.dumpArtifact, 'the dump in the artifact store');
  const { compression, sha512 } = needed(gathered.dump, 'the dump');

  const path = `/pgleap/${artifact.name}`;
  const settings = needed(run.settings, 'the source’s settings');
  const [imported, { items }] = await all([
    onArtifacts(run, 'copyIn', 'copy the dump into the target', { world, artifact, pod: server.pod, path }).then(() =>
      act('importDump', 'import the dump into the target', {
        world,
        server,
        path,
        compression,
        sha512,
        name: `restore-${tries}${runMark()}`,
      }),
    ),
    act('carrySettings', 'carry settings over', { world, target: server, settings }),
  ]);
  failOnImportErrors(imported, 'the target');
  gathered.restored = { import: imported, carried: items };
  for (const { what, name, why, outcome } of items)
    if (outcome === 'refused') run.status.notes.push(`Not carried over, yours to set: ${what} ${name}: ${why}`);
  const count = (wanted: CarriedItem['outcome']) => items.filter(({ outcome }) => outcome === wanted).length;
  note(
    run,
    'restore',
    `imported in ${Math.round(imported.seconds)} s; of ${items.length} settings ${count('carried')} carried over, ${count('same')} the same already, ${count('refused')} refused`,
  );
}
