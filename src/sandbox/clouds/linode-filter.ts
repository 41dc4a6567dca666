import { isRecord } from './http.ts';

type Row = Record<string, unknown>;

export class BadFilter extends Error {}

/**
 * Rows that pass `filter`, in the order `+order_by` asks for.
 * `filterable` are the fields the API marks so; a filter on another one is refused, as the API does.
 */
export function applyFilter<R extends Row>(rows: R[], filter: unknown, filterable: readonly string[]): R[] {
  if (!isRecord(filter)) throw new BadFilter('X-Filter must be a JSON object');
  const { '+order_by': orderBy, '+order': order, ...rest } = filter;
  const kept = rows.filter((row) => matches(row, rest, filterable));
  if (orderBy === undefined) return kept;
  if (typeof orderBy !== 'string' || !filterable.includes(orderBy)) {
    throw new BadFilter(`Cannot order by ${JSON.stringify(orderBy)}`);
  }
  const sign = order === 'desc' ? -1 : 1;
  return kept.toSorted((a, b) => sign * compare(a[orderBy], b[orderBy]));
}

function matches(row: Row, filter: unknown, filterable: readonly string[]): boolean {
  if (!isRecord(filter)) throw new BadFilter('X-Filter must be a JSON object');
  return Object.entries(filter).every(([key, wanted]) => {
    if (key === '+and' || key === '+or') {
      if (!Array.isArray(wanted)) throw new BadFilter(`${key} must be a list`);
      const results = wanted.map((part) => matches(row, part, filterable));
      return key === '+and' ? results.every(Boolean) : results.some(Boolean);
    }
    if (key.startsWith('+')) throw new BadFilter(`Unknown operator ${key}`);
    if (!filterable.includes(key)) throw new BadFilter(`Cannot filter on ${key}`);
    const value = row[key];
    const values: unknown[] = Array.isArray(value) ? value : [value];
    return isRecord(wanted)
      ? Object.entries(wanted).every(([operator, operand]) => holds(values, operator, operand))
      : values.includes(wanted);
  });
}

function holds(values: unknown[], operator: string, operand: unknown): boolean {
  switch (operator) {
    case '+eq':
      return values.includes(operand);
    case '+neq':
      return !values.includes(operand);
    case '+contains':
      return values.some((value) => String(value).includes(String(operand)));
    case '+gt':
      return values.some((value) => compare(value, operand) > 0);
    case '+gte':
      return values.some((value) => compare(value, operand) >= 0);
    case '+lt':
      return values.some((value) => compare(value, operand) < 0);
    case '+lte':
      return values.some((value) => compare(value, operand) <= 0);
    default:
      throw new BadFilter(`Unknown operator ${operator}`);
  }
}

function compare(a: unknown, b: unknown): number {
  if (typeof a === 'number' && typeof b === 'number') return a - b;
  const [left, right] = [String(a), String(b)];
  if (left === right) return 0;
  return left < right ? -1 : 1;
}
