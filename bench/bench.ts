/**
 * `npm run bench -- copy` and `npm run bench -- downtime`: see README.md beside this file. Results are one JSON line a bench on
 * stdout, and in words on stderr.
 */
import { parseArgs } from 'node:util';
import { benchCopy } from './copy.ts';
import { benchDowntime } from './downtime.ts';
import { raiseWorld, say } from './world.ts';

const help = `npm run bench -- [copy] [downtime] [--size MB]

  copy      a file of incompressible bytes out of a pod and into it again, by a worker of its own process
  downtime  what counts for the downtime: pgleap's way beside the way by hand, on the same data
  --size MB of the file (default 512) and of the database (default 100)

Examples:
  npm run bench -- copy --size 3072
  npm run bench -- downtime --size 400`;

const { values, positionals } = parseArgs({
  options: { size: { type: 'string' }, help: { type: 'boolean', short: 'h' } },
  allowPositionals: true,
});
const size = values.size === undefined ? undefined : Number(values.size);
const unknown = positionals.find((name) => name !== 'copy' && name !== 'downtime');
if (values.help === true) {
  process.stdout.write(`${help}\n`);
} else if (unknown !== undefined || (size !== undefined && !(size >= 1))) {
  say(unknown === undefined ? `--size is a number of MB, not ${values.size}` : `there is no bench ${unknown}`);
  say(help);
  process.exitCode = 2;
} else {
  const wanted = positionals.length === 0 ? ['copy', 'downtime'] : positionals;
  for (const name of wanted) {
    say(`${name}: a sandbox, Temporal's server and a worker…`);
    const world = await raiseWorld(name === 'copy' ? 1 : (size ?? 100));
    try {
      const result = name === 'copy' ? await benchCopy(world, size ?? 512) : await benchDowntime(world);
      process.stdout.write(`${JSON.stringify({ bench: name, ...result })}\n`);
    } finally {
      await world.close();
    }
  }
}
