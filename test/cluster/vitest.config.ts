import { defineConfig } from 'vitest/config';

export default defineConfig({
  test: {
    include: [
      'test/cluster/**/*.test.ts',
      // What runs in the sandbox, too. The others are long, or about the sandbox's own processes.
      'test/e2e/{demo,kills,lost,rights}.test.ts',
      'test/activities/{kubernetes,kubernetes-bad-input,way-back}.test.ts',
    ],
    env: { PGLEAP_WORLD: 'cluster' },
    globalSetup: 'test/cluster/setup.ts',
    pool: 'forks',
    // They share one cluster, and some of them restart parts of it.
    fileParallelism: false,
    // Pods start, volumes attach: seconds here, minutes on a cluster that was given.
    testTimeout: 180_000,
    hookTimeout: 300_000,
    teardownTimeout: 120_000,
  },
});
