import { expect, test } from 'vitest';
import { readSpecFile } from '../../src/client/spec-file.ts';
import { planUpgrade, upgradeResult } from '../../src/client/upgrades.ts';
import { openGate } from '../../src/domain/state.ts';
import { countAcknowledged } from '../../src/sandbox/demo/proof.ts';
import { answer, raiseStage, start } from './stage.ts';
import { expectUpgraded, oldWorld, sceneOf, upgradeAll } from './world.ts';

test(
  '15, rejected at gate reopen: the old world as it was, and then straight to 18',
  { timeout: 900_000 },
  async () => {
    const on = await raiseStage(15, 5);
    await on.startWorker();
    const { input } = await readSpecFile(on.sandbox.upgradeSpec);
    const scene = sceneOf(on, await planUpgrade(on.session, input));
    const before = await oldWorld(scene);
    expect(before['version']).toMatch(/^15\./);
    const rejected = await start(on);
    await answer(on, rejected, 'begin');
    await answer(on, rejected, 'replace');
    const atReopen = await answer(on, rejected, 'reopen', 'reject');
    expect(openGate(atReopen)?.evidence?.facts).toContainEqual({ name: 'fingerprints equal', value: true });
    const result = await upgradeResult(on.session, rejected);
    expect(result).toMatchObject({ ok: false, outcome: 'rolled-back', servicesRestored: true, routesRestored: true });
    expect(await oldWorld(scene)).toEqual(before);
    expect((await countAcknowledged(scene, on.visitor.visits.acknowledged)).missing).toBe(0);

    // An old world that only looks like it would not take the same upgrade again.
    const again = await start(on);
    const second = await upgradeAll(on, again);
    await expectUpgraded(on, again, second.before, second.scene);
  },
);
