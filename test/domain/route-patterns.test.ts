import * as fc from 'fast-check';
import { matchRoutes, parseRoutes } from 'miniflare';
import { expect, test } from 'vitest';
import {
  decidingPattern,
  overridingPatterns,
  parseRoutePattern,
  patternInZone,
} from '../../src/domain/route-patterns.ts';

const host = fc.constantFrom(
  'example.test',
  'www.example.test',
  'api.example.test',
  'a.b.example.test',
  'myexample.test',
);
const path = fc.constantFrom('/', '/a', '/a/', '/a/b', '/images', '/images/x', '/imagesx');
const pattern = fc
  .tuple(
    fc.constantFrom('', 'https://', 'http://'),
    fc.constantFrom('', '*', '*.'),
    host,
    path,
    fc.constantFrom('', '*'),
  )
  .map((parts) => parts.join(''));

test('decides as the routing table of a real Workers runtime does', () => {
  fc.assert(
    fc.property(fc.uniqueArray(pattern, { maxLength: 6 }), host, path, (patterns, name, where) => {
      const url = new URL(`https://${name}${where}`);
      const theirs = matchRoutes(parseRoutes(new Map(patterns.map((text) => [text, [text]]))), url);
      expect(decidingPattern(patterns, url) ?? null).toBe(theirs);
    }),
    { numRuns: 2000 },
  );
});

test('whatever takes a request away from a pattern is named as overriding it', () => {
  fc.assert(
    fc.property(pattern, fc.uniqueArray(pattern, { maxLength: 6 }), host, path, (own, others, name, where) => {
      const url = new URL(`https://${name}${where}`);
      if (decidingPattern([own], url) === undefined) return;
      const decides = decidingPattern([own, ...others], url);
      if (decides !== own) expect(overridingPatterns(own, others)).toContain(decides);
    }),
    { numRuns: 2000 },
  );
});

test('keeps Cloudflare’s known oddity of trailing stars', () => {
  const url = new URL('https://example.test/images/cat.png');
  expect(decidingPattern(['example.test/images/*', 'example.test/images*'], url)).toBe('example.test/images*');
  expect(overridingPatterns('example.test/*', ['api.example.test/*', 'example.test/a*', '*.example.test/*'])).toEqual([
    'example.test/a*',
  ]);
});

test.each(['', '/', '*.', 'a*b.test/', 'a.test/*/b', 'a.test/?q=1', 'a.test/#x', 'ftp://a.test/', 'a b.test/'])(
  'refuses the pattern %j',
  (text) => expect(parseRoutePattern(text)).toBeUndefined(),
);

function inZone(text: string): boolean {
  const parsed = parseRoutePattern(text);
  return parsed !== undefined && patternInZone(parsed, 'example.test');
}

test('knows which hosts are the zone’s', () => {
  expect(['example.test/*', '*example.test/*', '*.example.test/*', 'a.example.test', '*/*'].map(inZone)).not.toContain(
    false,
  );
  expect(['notexample.test/*', 'example.test.evil/*', 'test/*'].map(inZone)).not.toContain(true);
});
