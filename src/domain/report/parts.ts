import { html, type Html } from './html.ts';

/** A section with a table; nothing without rows. */
export function table(title: string, heads: string[], rows: Html[], before: Html | null = null): Html | null {
  if (rows.length === 0) return null;
  return html`<section>
    <h2>${title}</h2>
    ${before} ${grid(heads, rows)}
  </section>`;
}

function grid(heads: string[], rows: Html[]): Html | null {
  if (rows.length === 0) return null;
  return html`<div class="scroll">
    <table>
      <thead>
        <tr>
          ${heads.map((head) => html`<th scope="col">${head}</th>`)}
        </tr>
      </thead>
      <tbody>
        ${rows}
      </tbody>
    </table>
  </div>`;
}

/** A table whose uninteresting rows are there, but folded away. */
export function folded<T>(
  title: string,
  heads: string[],
  items: readonly T[],
  matters: (item: T) => boolean,
  others: string,
  row: (item: T) => Html,
): Html | null {
  const rest = items.filter((item) => !matters(item));
  if (items.length === 0) return null;
  return html`<section>
    <h2>${title}</h2>
    ${grid(heads, items.filter(matters).map(row))}
    ${
      rest.length > 0 &&
      html`<details>
        <summary>${rest.length} ${others}</summary>
        ${grid(heads, rest.map(row))}
      </details>`
    }
  </section>`;
}

/** A word with a colour that says how it is meant; the word alone must do. */
export function pill(text: string, tone: 'good' | 'warn' | 'bad' | 'calm'): Html {
  return html`<span class="pill ${tone}">${text}</span>`;
}
