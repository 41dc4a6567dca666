/** `npm run cluster:up` and `npm run cluster:down`: a real one-node Kubernetes for the tests, on a bare Debian 12. */
import { Command } from 'commander';
import { tearDown } from './down.ts';
import { ClusterProblem, MachineUnfit } from './layout.ts';
import { say } from './progress.ts';
import { readState, withLock } from './state.ts';
import { bringUp, clusterMemory, describeCluster } from './up.ts';

const started = performance.now();
const seconds = () => Number(((performance.now() - started) / 1000).toFixed(1));
const stop = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM'] as const) {
  process.once(signal, () => {
    say('stopping …');
    stop.abort(new ClusterProblem(`Stopped by ${signal}.`));
  });
}

const program = new Command('cluster').description('A real one-node Kubernetes for the tests, on this machine.');

program
  .command('up')
  .description('make it, or what is missing of it; ends with the path of its kubeconfig')
  .option('--json', 'print one line of JSON: kubeconfig, addresses, folders, whether it was up, seconds, memory')
  .addHelpText(
    'after',
    '\nExamples:\n  npm run cluster:up\n  npm run --silent cluster:up -- --json | jq -r .kubeconfig' +
      '\n\nExit codes: 1 when it failed, 2 when this machine lacks something.',
  )
  .action(async ({ json }: { json?: boolean }) => {
    const { state, wasUp } = await withLock(async () => {
      const before = readState()?.phase === 'up';
      return { state: await bringUp(stop.signal), wasUp: before };
    });
    const facts = { ...describeCluster(state), wasUp, seconds: seconds(), memoryBytes: clusterMemory() };
    if (!json) say(`up after ${facts.seconds} s, ${Math.round(facts.memoryBytes / 2 ** 20)} MiB of memory`);
    process.stdout.write(`${json ? JSON.stringify(facts) : facts.kubeconfig}\n`);
  });

program
  .command('down')
  .description('remove it with everything it made')
  .option('--cache', 'also delete what the next `up` would reuse: built programs, images')
  .option('--json', 'print one line of JSON: seconds')
  .addHelpText('after', '\nExamples:\n  npm run cluster:down\n  npm run cluster:down -- --cache')
  .action(async ({ cache, json }: { cache?: boolean; json?: boolean }) => {
    await withLock(() => tearDown({ cache: cache ?? false }));
    if (json) process.stdout.write(`${JSON.stringify({ seconds: seconds() })}\n`);
    else say(`down after ${seconds()} s`);
  });

try {
  await program.parseAsync();
} catch (error) {
  const reason: unknown = stop.signal.aborted ? stop.signal.reason : error;
  if (!(reason instanceof ClusterProblem)) throw error;
  console.error(reason.message);
  process.exitCode = reason instanceof MachineUnfit ? 2 : 1;
}
