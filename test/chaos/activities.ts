import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { openStore } from '../../src/activities/artifacts/store.ts';
import { createActivities } from '../../src/activities/index.ts';

/** The names of all activities that a worker serves. */
export async function activityNames(): Promise<string[]> {
  const folder = await mkdtemp(join(tmpdir(), 'pgleap-store-'));
  try {
    const { shared, artifacts } = createActivities(
      {
        kubeConfig: new KubeConfig(),
        linodeToken: '',
        linodeUrl: undefined,
        cloudflareToken: '',
        cloudflareUrl: undefined,
        notifyUrl: undefined,
      },
      await openStore(folder),
    );
    return Object.keys({ ...shared, ...artifacts });
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}
