import type { TestContext } from 'vitest';

/** A line in one of the run's tables: column by column, in this order. The reporter adds whether its test passed. */
export type Row = Record<string, string | number>;

declare module 'vitest' {
  interface TaskMeta {
    table?: { title: string; rows: Row[] };
  }
}

/** Puts a test into a table of the run, with a line or several. Again in the same test: with what is known by then. */
export function tell({ task }: TestContext, title: string, ...rows: Row[]): void {
  task.meta.table = { title, rows };
}

/** Rows as text for a terminal, columns as wide as they need. */
export function printTable(title: string, rows: readonly Row[]): string {
  const columns = [...new Set(rows.flatMap((row) => Object.keys(row)))];
  const cells = [columns, ...rows.map((row) => columns.map((column) => String(row[column] ?? '')))];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index]?.length ?? 0)));
  const lines = cells.map((line) =>
    line
      .map((cell, index) => cell.padEnd(widths[index] ?? 0))
      .join('  ')
      .trimEnd(),
  );
  const cases = rows.reduce((sum, row) => sum + Number(row['cases'] ?? 0), 0);
  return [`\n${title} (${rows.length}${cases === 0 ? '' : `; ${cases} cases`})`, ...lines].join('\n');
}
