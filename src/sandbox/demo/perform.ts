/** One upgrade from start to proof: on the stage that the demo has set, or on the user's own cluster. */
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import Cloudflare from 'cloudflare';
import { connect, countWorkers, type Session } from '../../client/connection.ts';
import { readSpecFile } from '../../client/spec-file.ts';
import { startUpgrade, upgradeResult } from '../../client/upgrades.ts';
import { duration } from '../../domain/text.ts';
import { UserError } from '../../domain/exit-codes.ts';
import type { UpgradeStatus } from '../../domain/state.ts';
import { loadKubeConfig } from '../../worker/config.ts';
import { openAccess } from '../world/access.ts';
import { narrate, say, style, type Terminal } from './narrate.ts';
import { compareArtifacts, compareSnapshots, countAcknowledged, type Finding } from './proof.ts';
import { takeSnapshot, watchDowntime, type DowntimeWatch, type Scene, type Snapshot } from './snapshot.ts';
import type { Stage } from './stage.ts';
import { startVisitor, type Visits } from './visitor.ts';

export type Ground = { kind: 'sandbox'; stage: Stage; artifacts: string } | { kind: 'own'; spec: string };

/** What `--json` prints. All but `phases` is what the demo saw with its own eyes; null: it could not look. */
export interface DemoResult {
  ok: boolean;
  outcome: 'upgraded' | 'rolled-back';
  from: string;
  to: string;
  strategy: string;
  workflowId: string;
  databases: number;
  rows: number;
  fingerprintsEqual: boolean | null;
  servicesRestored: boolean;
  routesRestored: boolean | null;
  downtimeSeconds: number | null;
  /** Rows that a service was told are committed, before, during and after. */
  acknowledgedWrites: number | null;
  lostWrites: number | null;
  visitors: { pages: number; maintenance: number; errors: number } | null;
  report: string | null;
  phases: { name: string; seconds: number }[];
}

/**
 * Starts the upgrade, narrates it, and looks at the world before and after. Temporal, cluster and clouds are those of the
 * environment. Throws UserError when it could not be started or ended with a failure.
 */
export async function performUpgrade(ground: Ground, terminal: Terminal): Promise<DemoResult> {
  const visitor =
    ground.kind === 'sandbox' ? startVisitor(ground.stage.sandbox.siteUrl, ground.stage.sandbox.siteHost) : undefined;
  const session = await connect();
  let watching: Watching | undefined;
  try {
    const { input, spec } = await readSpecFile(ground.kind === 'own' ? ground.spec : ground.stage.sandbox.upgradeSpec);
    if (ground.kind === 'sandbox') await workerIsThere(session);
    const { workflowId, runId } = await startUpgrade(session, input, spec, 'demo');
    say(
      terminal,
      `Upgrade ${style(terminal, 'bold', workflowId)} is started. ${whereToLook(ground, workflowId, runId)}`,
    );
    const status = await narrate(session, workflowId, terminal, {
      planned: async (planned) => {
        watching = await watch(planned);
      },
    });
    // A failed workflow is told as the failure that it is.
    const { outcome } = status.result ?? (await upgradeResult(session, workflowId));
    if (watching === undefined)
      throw new UserError('failed', 'The upgrade ended before there was anything to compare.');
    await visitor?.stop();
    return await prove(ground, terminal, outcome, status, watching, visitor?.visits);
  } finally {
    await visitor?.stop();
    await watching?.downtime.stop();
    await session.close();
  }
}

interface Watching {
  scene: Scene;
  before: Snapshot;
  downtime: DowntimeWatch;
}

async function watch(status: UpgradeStatus): Promise<Watching> {
  const facts = status.plan?.facts;
  if (!facts) throw new Error('there is no plan');
  const apiToken = process.env['CLOUDFLARE_API_TOKEN'];
  const baseURL = process.env['CLOUDFLARE_API_URL'];
  const scene: Scene = {
    access: openAccess(loadKubeConfig()),
    cluster: facts.cluster,
    routes: facts.routes,
    cloudflare: apiToken ? new Cloudflare({ apiToken, ...(baseURL ? { baseURL } : {}) }) : null,
  };
  return { scene, before: await takeSnapshot(scene), downtime: watchDowntime(scene) };
}

/** A worker that was started a moment ago has to bundle its workflows before it asks for work. */
async function workerIsThere(session: Session): Promise<void> {
  const deadline = Date.now() + 60_000;
  while ((await countWorkers(session)) === 0 && Date.now() < deadline) {
    await sleep(200);
  }
}

/** Straight to the tab that says in words where the upgrade is; the history comes first otherwise. */
function whereToLook(ground: Ground, workflowId: string, runId: string): string {
  const ui = ground.kind === 'sandbox' ? ground.stage.temporal.uiUrl : null;
  const page = `${encodeURIComponent(workflowId)}/${runId}/user-metadata`;
  return ui === null ? '' : `See it: ${ui}/namespaces/default/workflows/${page}`;
}

async function prove(
  ground: Ground,
  terminal: Terminal,
  outcome: DemoResult['outcome'],
  status: UpgradeStatus,
  { scene, before, downtime }: Watching,
  visits: Visits | undefined,
): Promise<DemoResult> {
  const after = await takeSnapshot(scene);
  const { tables, services, routes } = compareSnapshots(before, after);
  const fingerprints = ground.kind === 'sandbox' ? await compareArtifacts(ground.artifacts, status) : null;
  const writes = ground.kind === 'sandbox' ? await countAcknowledged(scene, visits?.acknowledged ?? []) : null;
  const down = await downtime.stop();
  const version: Finding = {
    name: 'version',
    ok: outcome === 'upgraded' ? before.version !== after.version : before.version === after.version,
    says: `PostgreSQL ${before.version} before, ${after.version} now (${after.image}, volume ${after.volume})`,
  };
  const findings = [version, tables, fingerprints, writes, services, routes].filter((one) => one !== null);
  const reportFile = status.gathered.artifacts.find(({ name }) => name.endsWith('report.html'))?.name;
  const report =
    ground.kind === 'sandbox' && reportFile !== undefined ? join(ground.artifacts, status.upgradeId, reportFile) : null;

  say(terminal);
  say(terminal, style(terminal, 'bold', 'The proof, looked up in the cluster, the server and the zone themselves:'));
  for (const { name, ok, says } of findings) {
    const mark =
      ok === null ? style(terminal, 'dim', '–') : ok ? style(terminal, 'green', '✔') : style(terminal, 'red', '✘');
    say(terminal, `${mark} ${name.padEnd(12)} ${says}`);
  }
  if (down !== null)
    say(terminal, `  ${'downtime'.padEnd(12)} ${duration(down)}, from the first service down to the last one ready`);
  if (visits !== undefined) {
    const seen = `${visits.pages} pages, ${visits.maintenance} maintenance pages, ${visits.errors} errors ${visits.firstErrors.join('; ')}`;
    say(terminal, `  ${'a visitor'.padEnd(12)} saw ${seen}`);
  }
  if (report !== null) say(terminal, `  ${'report'.padEnd(12)} ${report}`);

  // Two looks at the tables must agree, and so must the fingerprints that the upgrade took while nobody wrote.
  const equal = fingerprints === null || fingerprints.ok === null ? tables.ok : fingerprints.ok && tables.ok === true;
  return {
    ok: outcome === 'upgraded' && findings.every(({ ok }) => ok !== false),
    outcome,
    from: before.version,
    to: after.version,
    strategy: status.spec?.strategy ?? 'runbook',
    workflowId: status.workflowId,
    databases: after.databases,
    rows: after.rows,
    fingerprintsEqual: equal,
    servicesRestored: services.ok === true,
    routesRestored: routes.ok,
    downtimeSeconds: down,
    acknowledgedWrites: writes?.acknowledged ?? null,
    lostWrites: writes?.missing ?? null,
    visitors:
      visits === undefined ? null : { pages: visits.pages, maintenance: visits.maintenance, errors: visits.errors },
    report,
    phases: status.phases.flatMap(({ name, seconds }) => (seconds === null ? [] : [{ name, seconds }])),
  };
}
