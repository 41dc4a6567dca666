/** One line for people and for `kubectl logs`. */
export function log(level: 'info' | 'warn' | 'error', text: string): void {
  process.stdout.write(`${new Date().toISOString()} ${level} ${text}\n`);
}
