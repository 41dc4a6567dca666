import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as fc from 'fast-check';
import { afterAll, expect, test } from 'vitest';
import { cloneLabel, isVolumeLabel } from '../../src/domain/labels.ts';
import { openVolumes } from '../../src/sandbox/clouds/linode-volumes.ts';

const stateDir = mkdtempSync(join(tmpdir(), 'labels-'));
const volumes = openVolumes({ stateDir, region: 'eu-central', delays: { cloneMs: 0, detachMs: 0 }, log: () => {} });
afterAll(() => rmSync(stateDir, { recursive: true }));

/** Whether the provider takes a label, by the rule that its API documents. */
function taken(label: string): boolean {
  try {
    volumes.delete(volumes.create({ label, size: 10 }).id);
    return true;
  } catch {
    return false;
  }
}

const nearlyLabel = fc.string({ unit: fc.constantFrom('a', 'Z', '0', '9', '-', '_', '.', ' ', 'é'), maxLength: 35 });
const upgradeId = fc
  .string({ unit: fc.constantFrom('0', '7', 'a', 'f'), minLength: 8, maxLength: 8 })
  .map((hex) => `u${hex}`);
const claim = fc
  .string({ unit: fc.constantFrom('a', 'z', '7', '-', '.'), minLength: 1, maxLength: 253 })
  .filter((name) => /^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$/.test(name));

test('what pgleap takes for a label is what the provider takes', () => {
  fc.assert(
    fc.property(nearlyLabel, (label) => isVolumeLabel(label) === taken(label)),
    { numRuns: 500 },
  );
});

test('every clone’s own label is taken, carries the whole upgrade id, and is the same when asked again', () => {
  fc.assert(
    fc.property(upgradeId, claim, (id, name) => {
      const label = cloneLabel(id, name, undefined);
      expect(taken(label), label).toBe(true);
      expect(label).toContain(id);
      expect(cloneLabel(id, name, undefined)).toBe(label);
    }),
  );
});
