/**
 * The sandbox as a process: `node src/sandbox/main.ts --state DIR [--from 16] [--size 20]`. Prints one line of JSON when all of it
 * runs; ends with nothing left on SIGTERM, SIGINT, and when the process that started it is gone.
 */
import { parseArgs } from 'node:util';
import { resolve } from 'node:path';
import { startSandbox } from './sandbox.ts';
import { SOURCE_MAJORS } from './world/world.ts';

const { values } = parseArgs({
  options: {
    state: { type: 'string' },
    from: { type: 'string', default: '16' },
    size: { type: 'string', default: '20' },
  },
});

function log(line: string): void {
  process.stderr.write(`${line}\n`);
}

async function main(): Promise<void> {
  const from = SOURCE_MAJORS.find((major) => String(major) === values.from);
  const sizeMb = Number(values.size);
  if (values.state === undefined || from === undefined || !(sizeMb >= 0)) {
    process.stderr.write(
      `usage: node src/sandbox/main.ts --state DIR [--from ${SOURCE_MAJORS.join('|')}] [--size MB]\n`,
    );
    process.exitCode = 2;
    return;
  }
  const ended = new Promise<void>((end) => {
    process.once('SIGTERM', () => end()).once('SIGINT', () => end());
    if (process.connected) process.once('disconnect', () => end());
    const parent = process.ppid;
    // Nobody else would tell us when it was killed.
    setInterval(() => {
      if (process.ppid !== parent) end();
    }, 500).unref();
  });
  const starting = startSandbox({ stateDir: resolve(values.state), from, sizeMb, log });
  const sandbox = await Promise.race([starting, ended]);
  if (sandbox !== undefined) {
    process.stdout.on('error', () => {});
    process.stdout.write(`${JSON.stringify(sandbox.address)}\n`);
    await ended;
  }
  // What is half started must be taken down too; it rejects when it could not start, and then nothing is left.
  await starting.then(
    (started) => started.close(),
    () => {},
  );
}

try {
  await main();
} catch (error) {
  process.stderr.write(`The sandbox did not start: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode = 1;
}
process.exit();
