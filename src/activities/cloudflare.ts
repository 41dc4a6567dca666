import { asyncLocalStorage } from '@temporalio/activity';
import type { Check } from '../domain/checks.ts';
import type { RouteFact, World } from '../domain/facts.ts';
import { decidingPattern, overridingPatterns, parseRoutePattern, patternInZone } from '../domain/route-patterns.ts';
import type { Spec } from '../domain/spec.ts';
import { routesClient } from './cloudflare-client.ts';
import type { CloudflareConfig, StandingRoute } from './cloudflare-client.ts';
import { beat, pause } from './context.ts';
import { fail, isFailure } from './errors.ts';
import type { PreflightActivities, RouteActivities, UndoActivities } from './types.ts';
import { visit } from './visit.ts';
import type { Probe, Visit } from './visit.ts';

export interface CloudflareDeps extends CloudflareConfig {
  /** Throws WrongWorld when the worker's cluster is not the one of the plan. */
  assertWorld: (world: World) => Promise<void>;
  /** Between two rounds of probes. Default 1 s. */
  probeEveryMs?: number;
  /** How long one attempt of verifyRoutes goes on. Default 5 min: there is no promise of how fast routes spread. */
  verifyMs?: number;
}

export type CloudflareActivities = Pick<PreflightActivities, 'inspectRoutes'> &
  RouteActivities &
  Pick<UndoActivities, 'restoreRoute'>;

type Maintenance = NonNullable<Spec['maintenance']>;

/** So many rounds of probes in a row must agree: one answer may come from a place that has heard of the change first. */
const ROUNDS = 3;
const PROBE_TIMEOUT_MS = 10_000;

/** What pgleap does at Cloudflare: send visitors to the maintenance Worker, see that they get there, put it back. */
export function cloudflareActivities(deps: CloudflareDeps): CloudflareActivities {
  const { assertWorld, probeEveryMs = 1000, verifyMs = 300_000 } = deps;
  const client = routesClient(deps);

  async function standing({ zone, pattern }: RouteFact): Promise<StandingRoute | null> {
    return (await client.list(zone)).find((route) => route.pattern === pattern) ?? null;
  }

  return {
    async inspectRoutes({ maintenance }) {
      if (maintenance === null) {
        return {
          routes: [],
          checks: [
            {
              id: 'routes.none',
              status: 'INFO',
              message: 'The spec names no maintenance routes: visitors see errors meanwhile.',
            },
          ],
        };
      }
      try {
        const all = await client.list(maintenance.zone);
        const zoneName = await client.zoneName(maintenance.zone);
        const routes = [...new Set(maintenance.patterns)].map((pattern): RouteFact => {
          const found = all.find((route) => route.pattern === pattern);
          return { zone: maintenance.zone, pattern, prior: found ? { id: found.id, script: found.script } : null };
        });
        const checks = [
          zoneCheck(maintenance, zoneName),
          ...routes.map((route) => patternCheck(route, maintenance, zoneName)),
          ...overrideChecks(maintenance, all),
          scriptCheck(maintenance, all),
          ...(await probeChecks(maintenance, all)),
        ];
        return { routes, checks };
      } catch (error) {
        if (!isFailure(error, 'AccessDenied', 'NotFound')) throw error;
        const remedy = isFailure(error, 'NotFound')
          ? 'Copy the zone id from the overview page of the zone in Cloudflare’s dashboard.'
          : 'Make an API token with the permission Workers Routes: Edit for this zone, and restart the worker with it.';
        return { routes: [], checks: [{ id: 'routes.zone', status: 'FAILED', message: error.message, remedy }] };
      }
    },

    async setRoute({ world, route, script }) {
      await assertWorld(world);
      const current = await standing(route);
      if (current?.script === script) return;
      if ((current === null) !== (route.prior === null) || (current && current.script !== route.prior?.script)) {
        throw fail(
          'WrongWorld',
          `The route ${route.pattern} is not as it was when the upgrade was planned: it had ${sayRoute(route.prior)} and ` +
            `has ${sayRoute(current)} now. Put it back and retry, or make a new plan.`,
        );
      }
      try {
        await (current
          ? client.replace(route.zone, current.id, route.pattern, script)
          : client.create(route.zone, route.pattern, script));
      } catch (error) {
        // A request that seemed lost may have been served after all: the pattern has a route then, perhaps ours.
        if (!isFailure(error, 'Conflict')) throw error;
      }
      await mustStand(route, script);
    },

    async verifyRoutes({ maintenance, expect }) {
      const probes = await probesToAsk(maintenance, expect);
      const began = performance.now();
      const deadline = began + verifyMs;
      let agreed = 0;
      let agreedSince = began;
      for (;;) {
        const roundBegan = performance.now();
        const seconds = Math.round((roundBegan - began) / 1000);
        beat({ what: `routes ${expect}`, done: seconds, total: null, unit: 'seconds' });
        const visits = await Promise.all(probes.map((probe) => visit(probe, PROBE_TIMEOUT_MS)));
        const wrong = probes.flatMap((probe, index) => {
          const seen = visits[index];
          return seen !== undefined && isExpected(seen, maintenance, expect)
            ? []
            : [`${sayProbe(probe)} ${saySeen(seen, maintenance)}`];
        });
        if (agreed === 0) agreedSince = roundBegan;
        agreed = wrong.length === 0 ? agreed + 1 : 0;
        if (agreed >= ROUNDS || probes.length === 0) {
          return { seconds: Math.round(agreedSince - began) / 1000 };
        }
        if (performance.now() > deadline) {
          throw fail('NotReady', `The website does not show ${sayExpected(expect)} yet: ${wrong.join('; ')}.`);
        }
        await pause(probeEveryMs);
      }
    },

    async restoreRoute({ world, route, script }) {
      await assertWorld(world);
      const { prior, zone, pattern } = route;
      const current = await standing(route);
      if (current?.script === prior?.script && (current === null) === (prior === null)) return;
      if (current?.script !== script) {
        // Not what pgleap put there: somebody changed it since, and knows why.
        asyncLocalStorage
          .getStore()
          ?.log.warn('route left as it is', { pattern, has: sayRoute(current), had: sayRoute(prior) });
        return;
      }
      if (prior === null) {
        await client.remove(zone, current.id);
        if (await standing(route)) throw fail('Conflict', `The route ${pattern} still stands after it was removed.`);
      } else {
        await client.replace(zone, current.id, pattern, prior.script);
        await mustStand(route, prior.script);
      }
    },
  };

  /** Where the site was under maintenance before the upgrade, it stays so: there `normal` is not to be waited for. */
  async function probesToAsk(maintenance: Maintenance, expect: 'maintenance' | 'normal'): Promise<Probe[]> {
    if (expect === 'maintenance' || maintenance.probes.length === 0) return maintenance.probes;
    const all = await client.list(maintenance.zone);
    const patterns = all.map((route) => route.pattern);
    return maintenance.probes.filter((probe) => {
      const deciding = decidingPattern(patterns, visitedUrl(probe));
      return all.find((route) => route.pattern === deciding)?.script !== maintenance.script;
    });
  }

  async function mustStand(route: RouteFact, script: string | null): Promise<void> {
    const now = await standing(route);
    if (now === null || now.script !== script) {
      throw fail(
        'Conflict',
        `The route ${route.pattern} has ${sayRoute(now)} after the change. Somebody else changes it too.`,
      );
    }
  }
}

function isExpected(seen: Visit, { marker }: Maintenance, expect: 'maintenance' | 'normal'): boolean {
  if ('error' in seen) return false;
  const marked = seen.headers[marker.toLowerCase()] !== undefined;
  return expect === 'maintenance' ? marked : !marked;
}

function sayExpected(expect: 'maintenance' | 'normal'): string {
  return expect === 'maintenance' ? 'the maintenance page everywhere' : 'itself everywhere';
}

function sayProbe({ url, host }: Probe): string {
  return host === undefined ? url : `${url} (host ${host})`;
}

function saySeen(seen: Visit | undefined, { marker }: Maintenance): string {
  if (seen === undefined || 'error' in seen) return `did not answer (${seen?.error ?? 'not asked'})`;
  const marked = seen.headers[marker.toLowerCase()] === undefined ? 'without' : 'with';
  return `answered ${seen.status} ${marked} the header ${marker}`;
}

/** What Cloudflare sees of a probe: the URL with the Host header's host. */
function visitedUrl({ url, host }: Probe): URL {
  const visited = new URL(url);
  if (host !== undefined) visited.host = host;
  return visited;
}

function sayRoute(route: { script: string | null } | null): string {
  if (route === null) return 'no route';
  return route.script === null ? 'a route without a Worker' : `a route to the Worker ${route.script}`;
}

function zoneCheck({ zone }: Maintenance, zoneName: string | null): Check {
  return zoneName === null
    ? {
        id: 'routes.zone',
        status: 'INFO',
        message: `The credential may read the routes of zone ${zone} but not its name.`,
      }
    : { id: 'routes.zone', status: 'PASSED', message: `Cloudflare zone ${zone} is ${zoneName}.` };
}

function patternCheck(
  { pattern, prior }: RouteFact,
  { script, takeOver }: Maintenance,
  zoneName: string | null,
): Check {
  const id = 'routes.pattern';
  const parsed = parseRoutePattern(pattern);
  if (parsed === undefined) {
    return {
      id,
      status: 'FAILED',
      message: `${pattern} is not a route pattern.`,
      remedy: 'A star may only stand at the start of the host and at the end of the path, e.g. *example.com/*.',
    };
  }
  if (zoneName !== null && !patternInZone(parsed, zoneName)) {
    return {
      id,
      status: 'FAILED',
      message: `The pattern ${pattern} is not in the zone ${zoneName}.`,
      remedy: 'Correct maintenance.zone or maintenance.patterns.',
    };
  }
  if (prior === null) return { id, status: 'PASSED', message: `The pattern ${pattern} has no route yet.` };
  if (prior.script === script) {
    return {
      id,
      status: 'WARNING',
      message: `The pattern ${pattern} is routed to ${script} already: the site is under maintenance now, and stays so afterwards.`,
      remedy: 'If that is left over from something else, remove the route first.',
    };
  }
  return takeOver
    ? {
        id,
        status: 'INFO',
        message: `The pattern ${pattern} has ${sayRoute(prior)}; it is replaced for the time and put back.`,
      }
    : {
        id,
        status: 'FAILED',
        message: `The pattern ${pattern} has ${sayRoute(prior)} already.`,
        remedy: 'Set maintenance.takeOver: true to have it replaced for the time, or choose another pattern.',
      };
}

function overrideChecks({ patterns, script }: Maintenance, all: StandingRoute[]): Check[] {
  const others = all.filter((route) => route.script !== script && !patterns.includes(route.pattern));
  const overriding = new Set(
    patterns.flatMap((pattern) =>
      overridingPatterns(
        pattern,
        others.map((route) => route.pattern),
      ),
    ),
  );
  return others
    .filter((route) => overriding.has(route.pattern))
    .map((route) => ({
      id: 'routes.override',
      status: 'WARNING',
      message: `${route.pattern} has ${sayRoute(route)} and is more specific: its visitors do not see the maintenance page.`,
      remedy: `Add it to maintenance.patterns with takeOver, or approve that it stays up.`,
    }));
}

function scriptCheck({ script }: Maintenance, all: StandingRoute[]): Check {
  return all.some((route) => route.script === script)
    ? { id: 'routes.script', status: 'PASSED', message: `The Worker ${script} exists: another route leads to it.` }
    : {
        id: 'routes.script',
        status: 'INFO',
        message: `Whether the Worker ${script} exists shows when the first route is made, before any service is stopped.`,
      };
}

/** Probes now, because one that cannot show the change would let the upgrade wait for ever. */
async function probeChecks(maintenance: Maintenance, all: StandingRoute[]): Promise<Check[]> {
  const { probes, patterns, script, marker } = maintenance;
  if (probes.length === 0) {
    return [
      {
        id: 'routes.probe',
        status: 'WARNING',
        message: 'The spec names no maintenance.probes: whether visitors see the maintenance page is not checked.',
        remedy: 'Add the URLs of a few pages to maintenance.probes.',
      },
    ];
  }
  const remaining = all.filter((route) => !patterns.includes(route.pattern));
  const seen = await Promise.all(probes.map((probe) => visit(probe, PROBE_TIMEOUT_MS)));
  return probes.map((probe, index): Check => {
    const id = 'routes.probe';
    const deciding = decidingPattern([...patterns, ...remaining.map((route) => route.pattern)], visitedUrl(probe));
    const other = remaining.find((route) => route.pattern === deciding);
    if (deciding === undefined || (other !== undefined && other.script !== script)) {
      return {
        id,
        status: 'FAILED',
        message: `${sayProbe(probe)} would never show the maintenance page: ${deciding === undefined ? 'no pattern matches it' : `${deciding} decides for it`}.`,
        remedy: 'Correct maintenance.probes or maintenance.patterns.',
      };
    }
    const now = seen[index];
    if (now === undefined || 'error' in now) {
      return {
        id,
        status: 'FAILED',
        message: `${sayProbe(probe)} ${saySeen(now, maintenance)}.`,
        remedy: 'The probes are asked from where the worker runs; give URLs that it can reach.',
      };
    }
    return isExpected(now, maintenance, 'normal')
      ? { id, status: 'PASSED', message: `${sayProbe(probe)} answers ${now.status}.` }
      : {
          id,
          status: 'WARNING',
          message: `${sayProbe(probe)} shows the header ${marker} already, so it cannot show that maintenance begins.`,
          remedy: 'Is the site under maintenance now? Otherwise choose another maintenance.marker.',
        };
  });
}
