import { configDefaults, defineConfig } from 'vitest/config';
import { BaseSequencer, type TestSpecification } from 'vitest/node';

// What takes minutes begins first; vitest orders by the size of a file where it has not timed it yet.
const slow = /test\/(e2e\/|activities\/(streams|postgres|kubernetes)\.)/;
class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const sorted = await super.sort(files);
    return [
      ...sorted.filter((file) => slow.test(file.moduleId)),
      ...sorted.filter((file) => !slow.test(file.moduleId)),
    ];
  }
}

export default defineConfig({
  test: {
    include: ['test/**/*.test.ts'],
    // Those need a real Kubernetes (npm run test:cluster) or a long time (npm run test:chaos).
    exclude: [...configDefaults.exclude, 'test/cluster/**', 'test/chaos/**'],
    // Temporal's core is a native module with threads of its own: each file gets a process.
    pool: 'forks',
    // Much of the time is waiting for servers, so that two files at once fit on a machine of two cores.
    maxWorkers: 2,
    sequence: { sequencer: SlowFirst },
    // Many tests start servers and processes; a loaded machine of two cores takes its time.
    testTimeout: 180_000,
    hookTimeout: 120_000,
    // A suite that leaves something running hides it otherwise.
    teardownTimeout: 30_000,
  },
});
