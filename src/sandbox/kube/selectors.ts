import { badRequest } from './failures.ts';
import type { LabelSelector } from './objects.ts';

type Labels = Record<string, string>;
type Test = (labels: Labels) => boolean;

/** A selector inside an object, e.g. a Deployment's. Absent selects nothing, empty everything. */
export function matches(selector: LabelSelector | undefined, labels: Labels | undefined): boolean {
  if (selector === undefined) return false;
  const have = labels ?? {};
  for (const [key, value] of Object.entries(selector.matchLabels ?? {})) if (have[key] !== value) return false;
  return (selector.matchExpressions ?? []).every(({ key, operator, values }) => {
    const value = have[key];
    switch (operator) {
      case 'In':
        return value !== undefined && (values ?? []).includes(value);
      case 'NotIn':
        return value === undefined || !(values ?? []).includes(value);
      case 'Exists':
        return value !== undefined;
      default:
        return value === undefined;
    }
  });
}

/** The equality selector of a Service. Absent or empty selects nothing. */
export function matchesAll(selector: Labels | undefined, labels: Labels | undefined): boolean {
  const wanted = Object.entries(selector ?? {});
  return wanted.length > 0 && wanted.every(([key, value]) => labels?.[key] === value);
}

/** `labelSelector` of a request, equality- and set-based. Throws 400 when it can't be read. */
export function parseLabelSelector(text: string): Test {
  const tests = splitOutsideParentheses(text).map(parseRequirement);
  return (labels) => tests.every((test) => test(labels));
}

function splitOutsideParentheses(text: string): string[] {
  const parts = text.match(/(?:[^,(]|\([^)]*\))+/g) ?? [];
  return parts.map((part) => part.trim()).filter((part) => part !== '');
}

function parseRequirement(text: string): Test {
  const set = /^(\S+)\s+(in|notin)\s*\(([^)]*)\)$/.exec(text);
  if (set !== null) {
    const [, key = '', operator, list = ''] = set;
    const values = list.split(',').map((value) => value.trim());
    return operator === 'in'
      ? (labels) => values.includes(labels[key] ?? '') && key in labels
      : (labels) => !(key in labels) || !values.includes(labels[key] ?? '');
  }
  const equality = /^([^\s=!]+)\s*(==|=|!=)\s*([^\s=!]*)$/.exec(text);
  if (equality !== null) {
    const [, key = '', operator, value = ''] = equality;
    return operator === '!=' ? (labels) => labels[key] !== value : (labels) => labels[key] === value;
  }
  const existence = /^(!?)\s*([^\s=!(),]+)$/.exec(text);
  if (existence !== null) {
    const [, not, key = ''] = existence;
    return not === '!' ? (labels) => !(key in labels) : (labels) => key in labels;
  }
  throw badRequest(`unable to parse requirement: ${text}`);
}

/** `fieldSelector` of a request: any dotted path, compared as text. Throws 400 when it can't be read. */
export function parseFieldSelector(text: string): (object: unknown) => boolean {
  const tests = text
    .split(',')
    .filter((part) => part.trim() !== '')
    .map((part) => {
      const found = /^\s*([\w.]+)\s*(==|=|!=)\s*(.*?)\s*$/.exec(part);
      if (found === null) throw badRequest(`invalid field selector: ${part}`);
      const [, path = '', operator, value] = found;
      return (object: unknown) => (fieldText(object, path) === value) === (operator !== '!=');
    });
  return (object) => tests.every((test) => test(object));
}

function fieldText(object: unknown, path: string): string {
  let value = object;
  for (const part of path.split('.')) {
    if (typeof value !== 'object' || value === null) return '';
    value = (value as Record<string, unknown>)[part];
  }
  return typeof value === 'string' || typeof value === 'number' || typeof value === 'boolean' ? String(value) : '';
}
