import { tearDown } from './down.ts';
import { readState, withLock } from './state.ts';
import { bringUp } from './up.ts';

/** Brings the cluster up for the tests, and takes it down after them unless it was up before. A given one is left alone. */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (process.env['PGLEAP_TEST_KUBECONFIG']) return undefined;
  const wasThere = await withLock(async () => {
    const before = readState() !== undefined;
    await bringUp();
    return before;
  });
  return wasThere ? undefined : () => withLock(() => tearDown({ cache: false }));
}
