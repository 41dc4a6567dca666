/**
 * The example world on a cluster, whichever it is: a zone in front of it, the database with its data, and all that uses it.
 * What the cluster stands on (its API, its volumes' provider, the way to its pods) is the caller's.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { KubeConfig } from '@kubernetes/client-node';
import { MAINTENANCE_WORKER, startCloudflare } from '../clouds/cloudflare.ts';
import { openAccess } from './access.ts';
import { visitSite, type Connect } from './site.ts';
import { buildWorld, SITE_HOST, writeSpec, ZONE_NAME, type WorldOptions } from './world.ts';

const ZONE_ID = '0123456789abcdef0123456789abcdef';

/** What a user of a world needs to reach it; all of it goes through pgleap's normal configuration. */
export interface WorldAddress {
  kubeconfig: string;
  linode: { url: string; token: string };
  cloudflare: { url: string; token: string; zoneId: string };
  /** The zone as visitors reach it; `siteHost` is the Host header to send. */
  siteUrl: string;
  siteHost: string;
  /** Path of the example's spec, with its manifests beside it. */
  upgradeSpec: string;
}

export interface Ground extends WorldOptions {
  kubeconfig: string;
  linode: WorldAddress['linode'];
  connect: Connect;
  /** An address of this machine that pgleap's worker reaches. Default: the loopback one. */
  host?: string;
  /** The spec is written here. */
  stateDir: string;
  log: (line: string) => void;
}

/** Resolves when every example service is ready. `close` ends what runs beside the cluster; what is in it stays. */
export async function raiseWorld(ground: Ground): Promise<{ address: WorldAddress; close(): Promise<void> }> {
  const { kubeconfig, linode, connect, host, stateDir, log } = ground;
  const kubeConfig = new KubeConfig();
  kubeConfig.loadFromFile(kubeconfig);
  const access = openAccess(kubeConfig);
  const cloudflare = await startCloudflare({
    token: randomBytes(20).toString('hex'),
    zoneId: ZONE_ID,
    zoneName: ZONE_NAME,
    scripts: { maintenance: MAINTENANCE_WORKER },
    origin: (request) => visitSite(access, connect, request),
    ...(host === undefined ? {} : { host }),
    log,
  });
  try {
    await buildWorld(access, ground);
    const { apiUrl, token, siteUrl } = cloudflare;
    const upgradeSpec = await writeSpec(join(stateDir, 'upgrade'), { ...ground, siteUrl });
    const address = {
      kubeconfig,
      linode,
      cloudflare: { url: apiUrl, token, zoneId: ZONE_ID },
      siteUrl,
      siteHost: SITE_HOST,
      upgradeSpec,
    };
    return { address, close: () => cloudflare.close() };
  } catch (error) {
    await cloudflare.close();
    throw error;
  }
}
