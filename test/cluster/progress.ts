/** One line on stderr: stdout belongs to the result. */
export function say(text: string): void {
  process.stderr.write(`cluster: ${text}\n`);
}

/** Says what is being done when it takes more than two seconds, again now and then, and how long it took. */
export async function step<T>(label: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  const seconds = () => ((performance.now() - started) / 1000).toFixed(1);
  let said = false;
  const first = setTimeout(() => {
    said = true;
    say(`${label} …`);
  }, 2000);
  const again = setInterval(() => say(`${label} … ${seconds()} s`), 30_000);
  try {
    const result = await work();
    if (said) say(`${label}: done in ${seconds()} s`);
    return result;
  } finally {
    clearTimeout(first);
    clearInterval(again);
  }
}
