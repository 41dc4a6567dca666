import { execFile } from 'node:child_process';
import { chown, cp, mkdir, readFile, rm } from 'node:fs/promises';
import path from 'node:path';
import { promisify } from 'node:util';

const root = path.resolve(import.meta.dirname, '../..');
const run = promisify(execFile);

export interface ImageConfig {
  User: string;
  WorkingDir: string;
  Env: string[];
  Entrypoint: string[];
  Cmd: string[];
  Volumes: Record<string, object>;
}

/**
 * Builds what the Dockerfile adds to its base image into `folder`, instruction by instruction, without an engine. Throws for
 * an instruction that is not known here, so that what tests run is what an engine would build. Needs npm.
 */
export async function buildImage(folder: string): Promise<{ root: string; base: string; config: ImageConfig }> {
  const text = await readFile(path.join(root, 'Dockerfile'), 'utf8');
  const config: ImageConfig = { User: '', WorkingDir: '/', Env: [], Entrypoint: [], Cmd: [], Volumes: {} };
  const stages = new Map<string, string>();
  let here = '';
  let base = '';
  for (const line of text.split('\n').filter((one) => one !== '' && !one.startsWith('#'))) {
    const [, instruction = '', rest = ''] = /^([A-Z]+) (.*)$/.exec(line) ?? [];
    const words = rest.split(' ');
    const at = (name: string) => path.join(here, path.posix.resolve(config.WorkingDir, name));
    switch (instruction) {
      case 'FROM': {
        base = words[0] ?? '';
        here = path.join(folder, words[2] ?? 'image');
        if (words[2] !== undefined) stages.set(words[2], here);
        config.WorkingDir = '/';
        await mkdir(here, { recursive: true });
        break;
      }
      case 'WORKDIR':
        config.WorkingDir = rest;
        await mkdir(path.join(here, rest), { recursive: true });
        break;
      case 'COPY': {
        const options = words.filter((word) => word.startsWith('--'));
        const option = (name: string) => options.find((one) => one.startsWith(`--${name}=`))?.split('=')[1];
        const names = words.slice(options.length);
        const to = names.pop() ?? '';
        const stage = option('from');
        for (const name of names) {
          const source = stage === undefined ? path.join(root, name) : path.join(stages.get(stage) ?? '', name);
          const target = to.endsWith('/') ? path.join(at(to), path.basename(name)) : at(to);
          await mkdir(path.dirname(target), { recursive: true });
          const wanted = stage === undefined ? await dockerIgnore() : () => true;
          await cp(source, target, { recursive: true, verbatimSymlinks: true, filter: wanted });
          const [uid, gid] = (option('chown') ?? '').split(':').map(Number);
          if (uid !== undefined && gid !== undefined && process.getuid?.() === 0) await chown(target, uid, gid);
        }
        break;
      }
      case 'RUN':
        if (rest.startsWith('apt-get update && apt-get install') && rest.endsWith(' ca-certificates')) {
          const bundle = '/etc/ssl/certs/ca-certificates.crt';
          await cp(bundle, path.join(here, bundle), { recursive: true, dereference: true });
        } else if (rest.startsWith('npm ci ')) {
          await run('npm', [...words.slice(1), '--prefer-offline', '--loglevel=error'], { cwd: at('.') });
        } else if (words[0] === 'mkdir' && words.length === 2) await mkdir(at(words[1] ?? ''));
        else if (
          rest.startsWith(`SWC_NATIVE_BINDING_CACHE=/swc node -e "require('@swc/core')" && install -m 644 /swc/`)
        )
          await run('sh', ['-c', rest.replaceAll(/(?<=[= ])\/swc/g, path.join(here, 'swc'))], { cwd: at('.') });
        else throw new Error(`Dockerfile: RUN ${rest} is not known here`);
        break;
      case 'USER':
        config.User = rest;
        break;
      case 'ENV':
        config.Env.push(...words);
        break;
      case 'VOLUME':
        config.Volumes[rest] = {};
        break;
      case 'ENTRYPOINT':
        config.Entrypoint = JSON.parse(rest);
        break;
      case 'CMD':
        config.Cmd = JSON.parse(rest);
        break;
      default:
        throw new Error(`Dockerfile: ${line} is not known here`);
    }
  }
  for (const stage of stages.values()) await rm(stage, { recursive: true });
  return { root: here, base, config };
}

/** Whether a file of the project is in the build's context, by .dockerignore as it is written here: no patterns in names. */
async function dockerIgnore(): Promise<(file: string) => boolean> {
  const lines = (await readFile(path.join(root, '.dockerignore'), 'utf8'))
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  return (file) => {
    const name = path.relative(root, file);
    const hit = (pattern: string) => pattern === '*' || name === pattern || name.startsWith(`${pattern}/`);
    // The last line that fits decides.
    const last = lines.findLast((line) => hit(line.replace(/^!/, '')));
    return last === undefined || last.startsWith('!');
  };
}
