// Counts a JSON report of vitest as `passed failed`, and appends what failed to a file: count.mjs REPORT FAILURES
import { appendFileSync, readFileSync } from 'node:fs';
import { relative } from 'node:path';

const [report, failures] = process.argv.slice(2);
let told = 0;
const tell = (/** @type {string} */ what) => {
  appendFileSync(failures, `${what}\n`);
  told += 1;
};
try {
  const { numPassedTests, testResults } = JSON.parse(readFileSync(report, 'utf8'));
  for (const file of testResults) {
    const failed = file.assertionResults.filter(({ status }) => status === 'failed');
    for (const test of failed)
      tell(`${relative('.', file.name)}: ${test.fullName}: ${test.failureMessages[0]?.split('\n')[0] ?? ''}`);
    if (file.status === 'failed' && failed.length === 0)
      tell(`${relative('.', file.name)}: ${file.message.split('\n')[0]}`);
  }
  process.stdout.write(`${numPassedTests} ${told}\n`);
} catch (error) {
  tell(`no report of the tests: ${String(error)}`);
  process.stdout.write('0 1\n');
}
