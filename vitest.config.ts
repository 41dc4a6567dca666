import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Temporal's core is a native module with threads of its own: each file gets a process.
    pool: 'forks',
    // Many tests start servers and processes; a loaded machine of two cores takes its time.
    testTimeout: 90_000,
    hookTimeout: 120_000,
    // A suite that leaves something running hides it otherwise.
    teardownTimeout: 30_000,
  },
});
