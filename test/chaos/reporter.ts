import type { Reporter, TestCase } from 'vitest/node';
import { sampleSize, seed } from './seed.ts';
import { printTable, type Row } from './table.ts';

/** Shorter tests that pass are told of by the file they are in, when it ends. */
const longMs = 10_000;

/** Prints each long or failed test as it ends, the tables that the tests filled, the seed, and as the last line how many passed and failed. */
export default class ChaosReporter implements Reporter {
  onTestRunStart(): void {
    const sample = sampleSize === undefined ? 'everything' : `a sample of ${sampleSize} of each table`;
    process.stdout.write(`chaos: ${sample}, seed ${seed}\n`);
  }

  onTestCaseResult(test: TestCase): void {
    const took = test.diagnostic()?.duration ?? 0;
    const { state, errors = [] } = test.result();
    if (took < longMs && state !== 'failed') return;
    const minutes = Math.round(process.uptime() / 60);
    const why = errors.map(({ message, diff = '' }) => `\n${message}\n${diff}`).join('');
    process.stdout.write(
      `chaos: after ${minutes} min: ${state} in ${Math.round(took / 1000)} s: ${test.fullName}${why}\n`,
    );
  }

  onTestRunEnd(...[modules, unhandled]: Parameters<NonNullable<Reporter['onTestRunEnd']>>): void {
    const tables = new Map<string, Row[]>();
    let passed = 0;
    let failed = unhandled.length;
    for (const module of modules) {
      const tests = [...module.children.allTests()];
      // A file that could not be loaded has no tests, and a hook that failed may have skipped them all.
      if (module.state() === 'failed' && !tests.some((test) => test.result().state === 'failed')) failed += 1;
      for (const test of tests) {
        const { state } = test.result();
        if (state === 'passed') passed += 1;
        if (state === 'failed') failed += 1;
        const { table } = test.meta();
        if (table === undefined) continue;
        const rows = tables.get(table.title) ?? [];
        rows.push(...table.rows.map((row) => ({ ...row, test: state })));
        tables.set(table.title, rows);
      }
    }
    for (const [title, rows] of tables) process.stdout.write(`${printTable(title, rows)}\n`);
    process.stdout.write(`\nchaos: seed ${seed}; again with PGLEAP_CHAOS_SEED=${seed}\n`);
    process.stdout.write(`${passed} passed, ${failed} failed\n`);
  }
}
