import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Temporal's core is a native module with threads of its own: each file gets a process.
    pool: 'forks',
    testTimeout: 30_000,
    hookTimeout: 120_000,
    // A suite that leaves something running hides it otherwise.
    teardownTimeout: 30_000,
  },
});
