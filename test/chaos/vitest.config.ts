import { fileURLToPath } from 'node:url';
import { defineConfig } from 'vitest/config';
import { seed } from './seed.ts';

// The files run in processes of their own, and must draw from the same seed.
process.env['PGLEAP_CHAOS_SEED'] = String(seed);

export default defineConfig({
  root: fileURLToPath(new URL('../..', import.meta.url)),
  test: {
    include: ['test/chaos/**/*.test.ts'],
    reporters: ['default', fileURLToPath(new URL('reporter.ts', import.meta.url))],
    pool: 'forks',
    // Upgrades run side by side in a file; more at once only wait for each other, and then for too long.
    maxWorkers: 1,
    maxConcurrency: 3,
    testTimeout: 120_000,
    hookTimeout: 180_000,
    teardownTimeout: 30_000,
  },
});
