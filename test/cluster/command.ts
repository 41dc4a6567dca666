import { spawn } from 'node:child_process';
import { ClusterProblem } from './layout.ts';

export interface CommandOptions {
  env?: NodeJS.ProcessEnv;
  cwd?: string;
  stdin?: string;
  signal?: AbortSignal | undefined;
}

/**
 * Runs a program to its end and returns what it wrote to stdout.
 * @throws ClusterProblem with the last lines it wrote to stderr, or that there is no such program
 */
export function run(command: string, args: readonly string[], options: CommandOptions = {}): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      signal: options.signal,
      stdio: [options.stdin === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
    });
    let stdout = '';
    let stderr = '';
    let aborted: Error | undefined;
    child.stdout?.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr?.setEncoding('utf8').on('data', (text: string) => (stderr = (stderr + text).slice(-8000)));
    // A program that ends before it has read everything says so by its exit code.
    child.stdin?.on('error', () => {}).end(options.stdin);
    child.on('error', (error: NodeJS.ErrnoException) => {
      // Only when it has ended is nothing of it left to clean up.
      if (error.name === 'AbortError') aborted = error;
      else {
        const reason = error.code === 'ENOENT' ? 'there is no such program' : error.message;
        reject(new ClusterProblem(`${command} could not be run: ${reason}`, { cause: error }));
      }
    });
    child.on('close', (code, signal) => {
      if (aborted !== undefined) return reject(aborted);
      if (code === 0) return resolve(stdout);
      const end = stderr.trim().split('\n').slice(-5).join('\n  ');
      reject(new ClusterProblem(`${[command, ...args].join(' ')} ended with ${signal ?? code}:\n  ${end}`));
    });
  });
}
