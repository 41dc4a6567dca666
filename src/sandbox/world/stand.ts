import { parseArgs } from 'node:util';
import { resolve } from 'node:path';
import type { WorldAddress } from './raise.ts';
import { isTopology, SOURCE_MAJORS, type WorldOptions } from './world.ts';

export interface StandOptions extends WorldOptions {
  stateDir: string;
  log: (line: string) => void;
}

/**
 * A world as a process, `--state DIR [--from 16] [--size 20] [--topology sandbox]`: prints its address as one line of JSON when all of it runs, and
 * ends with nothing left on SIGTERM, SIGINT, and when the process that started it is gone.
 */
export async function stand(
  what: string,
  start: (options: StandOptions) => Promise<{ address: WorldAddress; close(): Promise<void> }>,
): Promise<never> {
  try {
    const options = readOptions();
    if (options === undefined) {
      process.stderr.write(
        `usage: ${what}: --state DIR [--from ${SOURCE_MAJORS.join('|')}] [--size MB] [--topology NAME]\n`,
      );
      process.exit(2);
    }
    const ended = theEnd();
    const starting = start(options);
    const world = await Promise.race([starting, ended]);
    if (world !== undefined) {
      process.stdout.on('error', () => {});
      process.stdout.write(`${JSON.stringify(world.address)}\n`);
      await ended;
    }
    // What is half started must be taken down too; it rejects when it could not start, and then nothing is left.
    await starting.then(
      (started) => started.close(),
      () => {},
    );
  } catch (error) {
    process.stderr.write(`The ${what} did not start: ${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  }
  process.exit();
}

function readOptions(): StandOptions | undefined {
  const { values } = parseArgs({
    options: {
      state: { type: 'string' },
      from: { type: 'string', default: '16' },
      size: { type: 'string', default: '20' },
      topology: { type: 'string', default: 'sandbox' },
    },
  });
  const from = SOURCE_MAJORS.find((major) => String(major) === values.from);
  const sizeMb = Number(values.size);
  const { topology } = values;
  if (values.state === undefined || from === undefined || !(sizeMb >= 0) || !isTopology(topology)) return undefined;
  return {
    stateDir: resolve(values.state),
    from,
    sizeMb,
    topology,
    log: (line) => void process.stderr.write(`${line}\n`),
  };
}

function theEnd(): Promise<void> {
  return new Promise<void>((end) => {
    process.once('SIGTERM', () => end()).once('SIGINT', () => end());
    if (process.connected) process.once('disconnect', () => end());
    const parent = process.ppid;
    // Nobody else would tell us when it was killed.
    setInterval(() => {
      if (process.ppid !== parent) end();
    }, 500).unref();
  });
}
