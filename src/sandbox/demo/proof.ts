/** What became of the world, from two looks at it. Nothing here asks the upgrade. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { UpgradeStatus } from '../../domain/state.ts';
import { podOf, psql } from '../world/access.ts';
import { runInPod } from '../../activities/kubernetes/exec.ts';
import type { Scene, Snapshot } from './snapshot.ts';

/** One line of the proof; `ok` null where the demo could not look. */
export interface Finding {
  name: string;
  ok: boolean | null;
  says: string;
}

export function compareSnapshots(before: Snapshot, after: Snapshot): Record<'tables' | 'services' | 'routes', Finding> {
  const names = new Set([...Object.keys(before.tables), ...Object.keys(after.tables)]);
  const changed = [...names].filter((name) => before.tables[name] !== after.tables[name]);
  const roles = before.roles.join('\n') === after.roles.join('\n');
  const moved = Object.entries(before.services).filter(([name, state]) => after.services[name] !== state);
  const sameRoutes = before.routes === null || after.routes === null ? null : same(before.routes, after.routes);
  return {
    tables: {
      name: 'data',
      ok: changed.length === 0 && roles,
      says:
        changed.length === 0 && roles
          ? `${names.size} tables in ${after.databases} databases and ${after.roles.length} roles have the digests they had before`
          : [...changed.map((name) => `${name} differs`), ...(roles ? [] : ['roles differ'])].slice(0, 10).join(', '),
    },
    services: {
      name: 'services',
      ok: moved.length === 0,
      says:
        moved.length === 0
          ? Object.entries(after.services)
              .map(([name, state]) => `${name.replace(/^\w+ /, '')} ${state}`)
              .join(', ')
          : moved.map(([name, state]) => `${name}: ${state} before, ${after.services[name] ?? 'gone'} now`).join(', '),
    },
    routes: {
      name: 'routes',
      ok: sameRoutes,
      says:
        after.routes === null
          ? 'not looked at: no Cloudflare token here'
          : sameRoutes
            ? `as before: ${after.routes.length === 0 ? 'none' : after.routes.join(', ')}`
            : `${before.routes?.join(', ') || 'none'} before, ${after.routes.join(', ') || 'none'} now`,
    },
  };
}

function same(a: string[], b: string[]): boolean {
  return a.join('\n') === b.join('\n');
}

/** Reads the fingerprints that the upgrade left in its artifact folder, and compares them byte by byte. */
export async function compareArtifacts(artifacts: string, status: UpgradeStatus): Promise<Finding> {
  const source = status.gathered.sourceFingerprintArtifact;
  const files = await readdir(artifacts, { recursive: true, withFileTypes: true }).catch(() => []);
  const found = files.filter(
    (file) => file.isFile() && file.name.includes('fingerprint') && file.parentPath.includes(status.upgradeId),
  );
  const digests = new Map<string, string>();
  for (const file of found) {
    const bytes = await readFile(join(file.parentPath, file.name));
    digests.set(file.name, createHash('sha512').update(bytes).digest('hex'));
  }
  const distinct = new Set(digests.values());
  const whole = source !== null && distinct.has(source.sha512);
  const ok = digests.size >= 2 && distinct.size === 1 && whole;
  return {
    name: 'fingerprints',
    ok: digests.size < 2 ? null : ok,
    says: ok
      ? `${digests.size} fingerprints in the artifact folder are equal byte by byte: SHA-512 ${[...distinct][0]?.slice(0, 16)}…`
      : [...digests].map(([name, digest]) => `${name} ${digest.slice(0, 16)}…`).join(', ') ||
        'none in the artifact folder',
  };
}

/** That each row which a service was told is committed is there, asked from both sides. */
export async function countAcknowledged(
  scene: Scene,
  visits: string[],
): Promise<Finding & { acknowledged: number; missing: number }> {
  const { access, cluster } = scene;
  const { kind, namespace, name } = cluster.database.workload;
  const server = await podOf(access, namespace, name, kind);
  const writer = await podOf(access, 'bots', 'metricity');
  const told = Number(await runInPod(access.kubeConfig, writer, ['cat', '/var/lib/metricity/acknowledged']));
  const { superuser } = cluster.database;
  const rows = Number(
    await psql(access, server, superuser, 'metricity', `SELECT count(*) FROM ledger WHERE n <= ${told};`),
  );
  const ids = visits.map((id) => String(BigInt(id)));
  const seen = Number(
    await psql(access, server, superuser, 'site', `SELECT count(*) FROM visits WHERE id = ANY ('{${ids.join(',')}}');`),
  );
  const missing = told - rows + (ids.length - seen);
  return {
    name: 'writes',
    acknowledged: told + ids.length,
    missing,
    ok: missing === 0,
    says:
      missing === 0
        ? `all ${told} rows of the writer and all ${ids.length} visits that were acknowledged are there`
        : `${missing} acknowledged rows are missing (writer: ${rows} of ${told}, visits: ${seen} of ${ids.length})`,
  };
}
