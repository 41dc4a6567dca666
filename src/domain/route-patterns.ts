/**
 * Cloudflare's rules for Worker route patterns: `[http[s]://]host/path`, with `*` at the start of the host and the end of
 * the path only. One route per pattern; of those that match a request, the most specific one alone decides.
 */

export interface RoutePattern {
  /** `https:` or `http:` when the pattern names one, null for both. */
  scheme: string | null;
  /** Without the leading `*`. */
  host: string;
  hostWildcard: boolean;
  /** Without the trailing `*`. */
  path: string;
  pathWildcard: boolean;
}

/** Undefined for what Cloudflare refuses as a pattern. */
export function parseRoutePattern(pattern: string): RoutePattern | undefined {
  const [, scheme, host, path = '/'] = /^(?:(https?):\/\/)?(\*?[^/?#*:\s]*)(\/[^?#*\s]*\*?)?$/i.exec(pattern) ?? [];
  if (host === undefined || host === '' || host === '*.') return undefined;
  const hostWildcard = host.startsWith('*');
  const pathWildcard = path.endsWith('*');
  return {
    scheme: scheme === undefined ? null : `${scheme.toLowerCase()}:`,
    host: host.slice(hostWildcard ? 1 : 0).toLowerCase(),
    hostWildcard,
    path: pathWildcard ? path.slice(0, -1) : path,
    pathWildcard,
  };
}

/** Whether every host that the pattern can match belongs to the zone of this name. */
export function patternInZone({ host, hostWildcard }: RoutePattern, zoneName: string): boolean {
  // `*example.com` matches `notexample.com` too, but a zone only ever sees its own hosts.
  return host === zoneName || host.endsWith(`.${zoneName}`) || (hostWildcard && zoneName.endsWith(host));
}

/** The pattern that decides for a URL, undefined when none matches. Patterns that do not parse never match. */
export function decidingPattern(patterns: readonly string[], url: URL): string | undefined {
  return patterns
    .filter((text) => {
      const pattern = parseRoutePattern(text);
      return pattern !== undefined && matches(pattern, url);
    })
    .sort(bySpecificity)[0];
}

/** Those of `others` that keep some requests away from `pattern`, because they match them too and are more specific. */
export function overridingPatterns(pattern: string, others: readonly string[]): string[] {
  const own = parseRoutePattern(pattern);
  if (own === undefined) return [];
  return others.filter((text) => {
    const other = parseRoutePattern(text);
    return other !== undefined && text !== pattern && overlap(own, other) && bySpecificity(text, pattern) < 0;
  });
}

function matches(pattern: RoutePattern, url: URL): boolean {
  return (
    (pattern.scheme === null || pattern.scheme === url.protocol) &&
    (pattern.hostWildcard ? url.hostname.endsWith(pattern.host) : url.hostname === pattern.host) &&
    (pattern.pathWildcard ? url.pathname.startsWith(pattern.path) : url.pathname === pattern.path)
  );
}

function overlap(a: RoutePattern, b: RoutePattern): boolean {
  const scheme = a.scheme === null || b.scheme === null || a.scheme === b.scheme;
  const host =
    (a.hostWildcard && b.host.endsWith(a.host)) || (b.hostWildcard && a.host.endsWith(b.host)) || a.host === b.host;
  const path =
    (a.pathWildcard && b.path.startsWith(a.path)) || (b.pathWildcard && a.path.startsWith(b.path)) || a.path === b.path;
  return scheme && host && path;
}

/**
 * Negative when `a` decides before `b`. The host's labels count first, then the path's segments; a whole label or segment
 * that is `*` counts less than none. This is the order of Cloudflare's own routing table, with its known oddities:
 * `example.com/images*` comes before `example.com/images/*`.
 */
function bySpecificity(a: string, b: string): number {
  return score(b) - score(a) || b.length - a.length;
}

function score(text: string): number {
  const [host = '', ...segments] = text.replace(/^https?:\/\//i, '').split('/');
  const labels = host.split('.');
  const hostScore = labels.length - (labels[0] === '*' ? 2 : 0);
  const path = segments.length === 0 ? [''] : segments;
  const pathScore = path.length + 1 - (path.at(-1) === '*' ? 2 : 0);
  return hostScore * 26 + pathScore;
}
