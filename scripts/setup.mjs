/**
 * Brings everything that `npm run demo`, `npm test` and `npm run check` need, and is done in under a second when it is all
 * there. Plain JavaScript without dependencies, because it runs before they exist and on the Node the user happens to have
 * (18 or later): the project's own Node comes with the dependencies.
 */
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

const root = path.dirname(path.dirname(fileURLToPath(import.meta.url)));
const inRoot = (...parts) => path.join(root, ...parts);

const lock = inRoot('package-lock.json');
const stamp = inRoot('node_modules', '.pgleap-lock');

function lockHash() {
  return createHash('sha256').update(readFileSync(lock)).digest('hex');
}

/**
 * What was installed for these very contents needs no second time, however new git made the file. Without a stamp somebody
 * else ran npm, which writes node_modules/.package-lock.json last: its age is that of a complete installation.
 */
function dependenciesAreInstalled() {
  if (existsSync(stamp) && readFileSync(stamp, 'utf8') === lockHash()) return true;
  const installed = inRoot('node_modules', '.package-lock.json');
  return existsSync(installed) && statSync(installed).mtimeMs >= statSync(lock).mtimeMs;
}

function fail(message) {
  console.error(`\nset-up: ${message}`);
  process.exit(1);
}

function installDependencies() {
  console.error('set-up: npm ci, 30 to 60 seconds …');
  const started = Date.now();
  const npm = process.env.npm_execpath;
  const [command, args] = npm
    ? [process.execPath, [npm, 'ci', '--loglevel=error']]
    : ['npm', ['ci', '--loglevel=error']];
  // What npm prints is for people too, but stdout belongs to the script that comes after (`--json`).
  const result = spawnSync(command, args, { cwd: root, stdio: ['ignore', 2, 2] });
  if (result.status !== 0) fail('npm ci failed; see its message above.');
  writeFileSync(stamp, lockHash());
  console.error(`set-up: npm ci took ${Math.round((Date.now() - started) / 1000)} s`);
}

/** The Node that npm's scripts run: the project's own where there is one for this platform, else the user's. */
function findNode() {
  const own = inRoot('node_modules', '.bin', 'node');
  const node = existsSync(own) ? own : process.execPath;
  const version = node === own ? spawnSync(node, ['--version'], { encoding: 'utf8' }).stdout.trim() : process.version;
  const [major, minor] = version.slice(1).split('.').map(Number);
  if (major < 22 || (major === 22 && minor < 19)) {
    fail(
      `Node ${version} is too old: 22.19 or later is needed (24 is best). For ${process.platform}-${process.arch} the project ` +
        'brings none along, or its optional dependencies were left out: install Node 24 from https://nodejs.org, or on ' +
        'x64 and arm64 Linux run `npm ci --include=optional`.',
    );
  }
  return node;
}

function run(node, script) {
  const result = spawnSync(node, [script], { cwd: root, stdio: ['ignore', 2, 2] });
  if (result.status !== 0) process.exit(result.status ?? 1);
}

if (!dependenciesAreInstalled()) installDependencies();
const node = findNode();
const event = process.env.npm_lifecycle_event;
if (event !== 'precheck') {
  run(node, inRoot('scripts', 'temporal.ts'));
  const images = inRoot('src', 'sandbox', 'images', 'prepare.ts');
  if (existsSync(images)) run(node, images);
}
