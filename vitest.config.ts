import { configDefaults, defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Those need a real Kubernetes (npm run test:cluster) or a long time (npm run test:chaos).
    exclude: [...configDefaults.exclude, 'test/cluster/**', 'test/chaos/**'],
    // Temporal's core is a native module with threads of its own: each file gets a process.
    pool: 'forks',
    // Much of the time is waiting for servers, so that two files at once fit on a machine of two cores.
    maxWorkers: 2,
    // Many tests start servers and processes; a loaded machine of two cores takes its time.
    testTimeout: 180_000,
    hookTimeout: 120_000,
    // A suite that leaves something running hides it otherwise.
    teardownTimeout: 30_000,
  },
});
