/** What is wrong with a spec, in words that name the place, what was found and what belongs there. */
import type { z } from 'zod';
import { specJsonSchema } from './spec.ts';

export interface SpecProblem {
  /** Keys and indexes down to the place. */
  path: (string | number)[];
  /** The last key of `path` is itself what is wrong, not its value. */
  atKey: boolean;
  /** Such as `found the number 18, expected text`. */
  says: string;
}

/** Every problem of a failed parse, in the order of the schema. */
export function specProblems(error: z.ZodError, input: unknown): SpecProblem[] {
  return error.issues.flatMap((issue) => explain(issue, [], input));
}

/** `services[0].name`; `the spec` for the whole. */
export function pathText(path: (string | number)[]): string {
  const text = path.map((part) => (typeof part === 'number' ? `[${part}]` : `.${part}`)).join('');
  return text.replace(/^\./, '') || 'the spec';
}

function explain(issue: z.core.$ZodIssue, above: (string | number)[], input: unknown): SpecProblem[] {
  const path = [...above, ...issue.path.map((part) => (typeof part === 'number' ? part : String(part)))];
  const found = path.reduce<unknown>((value, part) => (isRecord(value) ? value[part] : undefined), input);
  switch (issue.code) {
    case 'unrecognized_keys':
      return issue.keys.map((key) => ({ path: [...path, key], atKey: true, says: `unknown key${hint(key, path)}` }));
    case 'invalid_union': {
      // Of the ways to write it, the one that was meant is the one whose own type is right: its problems lie deeper.
      const meant = issue.errors.find((issues) => issues.every((inner) => !isWrongKind(inner)));
      if (meant) return meant.flatMap((inner) => explain(inner, path, input));
      return [{ path, atKey: false, says: `found ${describe(found)}, expected ${alternatives(issue.errors)}` }];
    }
    case 'invalid_type':
      return [
        found === undefined
          ? { path, atKey: false, says: `is missing; expected ${article(issue.expected)}` }
          : { path, atKey: false, says: `found ${describe(found)}, expected ${article(issue.expected)}` },
      ];
    case 'invalid_value':
      return [
        { path, atKey: false, says: `found ${describe(found)}, expected ${issue.values.map(String).join(' or ')}` },
      ];
    case 'too_small':
    case 'too_big': {
      const bound = issue.code === 'too_small' ? `at least ${issue.minimum}` : `at most ${issue.maximum}`;
      const unit = typeof found === 'string' ? ' characters' : Array.isArray(found) ? ' entries' : '';
      return [{ path, atKey: false, says: `found ${describe(found)}, expected ${bound}${unit}` }];
    }
    default:
      return [{ path, atKey: false, says: `found ${describe(found)}, expected ${issue.message}` }];
  }
}

function isWrongKind(issue: z.core.$ZodIssue): boolean {
  return issue.path.length === 0 && (issue.code === 'invalid_type' || issue.code === 'invalid_value');
}

function alternatives(errors: z.core.$ZodIssue[][]): string {
  const texts = errors.flat().flatMap((issue) => {
    if (issue.code === 'invalid_type') return [article(issue.expected)];
    return issue.code === 'invalid_value' ? issue.values.map(String) : [];
  });
  return [...new Set(texts)].join(' or ') || 'something else';
}

const kinds: Record<string, string> = {
  string: 'text',
  object: 'a mapping',
  record: 'a mapping',
  array: 'a list',
  boolean: 'true or false',
  number: 'a number',
  int: 'a whole number',
};

function article(kind: string): string {
  return kinds[kind] ?? kind;
}

/** What was found, short; long texts are cut, because somebody may have put a secret where none belongs. */
function describe(value: unknown): string {
  if (value === undefined) return 'nothing';
  if (value === null) return 'nothing (null)';
  if (Array.isArray(value)) return 'a list';
  if (typeof value === 'object') return 'a mapping';
  if (typeof value === 'string') return `“${value.length > 40 ? `${value.slice(0, 40)}…` : value}”`;
  return typeof value === 'number' || typeof value === 'boolean' ? `the ${typeof value} ${value}` : `a ${typeof value}`;
}

function isRecord(value: unknown): value is Record<string | number, unknown> {
  return typeof value === 'object' && value !== null;
}

/** The known keys at a place, read from the JSON Schema so that no second list of them can go stale. */
function keysAt(path: (string | number)[]): string[] {
  let here = [specJsonSchema()];
  for (const part of path) {
    here = here.flatMap(variants).flatMap((schema) => {
      const below =
        typeof part === 'number' ? schema.items : (schema.properties?.[part] ?? schema.additionalProperties);
      return below !== undefined && typeof below === 'object' && !Array.isArray(below) ? [below] : [];
    });
  }
  return here
    .flatMap(variants)
    .flatMap(({ properties, propertyNames }) => [
      ...Object.keys(properties ?? {}),
      ...(typeof propertyNames === 'object' ? (propertyNames.enum ?? []).map(String) : []),
    ]);
}

type JsonSchema = ReturnType<typeof specJsonSchema>;

function variants(schema: JsonSchema): JsonSchema[] {
  const inner = (schema.anyOf ?? []).filter((one): one is JsonSchema => typeof one === 'object');
  return [schema, ...inner.flatMap(variants)];
}

function hint(key: string, path: (string | number)[]): string {
  const known = keysAt(path);
  const ranked = known
    .map((name) => ({ name, distance: editDistance(key.toLowerCase(), name.toLowerCase()) }))
    .sort((a, b) => a.distance - b.distance);
  const best = ranked[0];
  if (best && best.distance <= Math.max(1, Math.floor(best.name.length / 3))) return `; did you mean ${best.name}?`;
  return known.length === 0 ? '' : `; known here: ${known.join(', ')}`;
}

function editDistance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const change = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      row.push(Math.min(change, (previous[j] ?? 0) + 1, (row[j - 1] ?? 0) + 1));
    }
    previous = row;
  }
  return previous[b.length] ?? 0;
}
