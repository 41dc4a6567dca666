/** The report's part on how it went: where the time went, phases, decisions. */
import { duration, timeText } from '../text.ts';
import { gates, phases } from '../phases.ts';
import { secondsBetween, type EvidenceItem, type GateRow, type PhaseRow, type UpgradeStatus } from '../state.ts';
import { html, type Html } from './html.ts';
import { table } from './parts.ts';

interface Span {
  kind: 'work' | 'wait';
  name: string;
  from: string;
  to: string;
}

/** Phases and waits as long as they were and where they were in time; what ran at the same time lies in several lanes. */
export function timeline(status: UpgradeStatus): Html | null {
  const spans = status.phases.flatMap((row): Span[] => [
    ...gateBefore(status, row).flatMap(({ name, openedAt, decidedAt }) =>
      openedAt !== null && decidedAt !== null
        ? [{ kind: 'wait' as const, name: `gate ${name}`, from: openedAt, to: decidedAt }]
        : [],
    ),
    ...(row.startedAt !== null && row.endedAt !== null
      ? [{ kind: 'work' as const, name: row.name, from: row.startedAt, to: row.endedAt }]
      : []),
  ]);
  spans.sort((x, y) => (x.from < y.from ? -1 : 1));
  const begin = spans[0]?.from ?? '';
  const total = Math.max(0, ...spans.map(({ to }) => secondsBetween(begin, to)));
  if (total === 0) return null;
  const lanes: Span[][] = [];
  for (const span of spans) {
    const free = lanes.find((lane) => (lane.at(-1)?.to ?? '') <= span.from);
    if (free) free.push(span);
    else lanes.push([span]);
  }
  return html`<section>
    <h2>Where the time went</h2>
    ${lanes.map((lane) => html`<div class="lane">${lane.map((span) => bar(span, begin, total))}</div>`)}
    <p class="legend">
      <span class="work"></span> work <span class="wait"></span> waiting for a person; ${duration(total)} in all
    </p>
  </section>`;
}

function bar({ kind, name, from, to }: Span, begin: string, total: number): Html {
  const percent = (seconds: number) => Number(((seconds / total) * 100).toFixed(2));
  const width = percent(secondsBetween(from, to));
  const place = `left:${percent(secondsBetween(begin, from))}%;width:${width}%`;
  return html`<div class="${kind}" style="${place}" title="${name}: ${duration(secondsBetween(from, to))}">
    ${width > 7 && html`<span>${name}</span>`}
  </div>`;
}

function gateBefore(status: UpgradeStatus, row: PhaseRow): GateRow[] {
  const name = gates.find((gate) => gate.before === row.name)?.name;
  return status.gates.filter((gate) => gate.name === name && gate.state !== 'pending');
}

function gateSeconds({ openedAt, decidedAt }: GateRow): number | null {
  return openedAt !== null && decidedAt !== null ? secondsBetween(openedAt, decidedAt) : null;
}

export function phaseTable(status: UpgradeStatus): Html | null {
  const rows = status.phases.flatMap((row) => [
    ...gateBefore(status, row).map(
      (gate) =>
        html`<tr class="gate">
          <td>gate ${gate.name}</td>
          <td>${gate.state === 'open' ? 'waits' : `${gate.state} by ${gate.by ?? 'nobody'}`}</td>
          <td class="time">${clock(gate.openedAt)}</td>
          <td class="time">${took(gateSeconds(gate))}</td>
          <td>${gate.note}</td>
        </tr>`,
    ),
    html`<tr class="${row.state}">
      <td>${row.name}</td>
      <td>${row.state}${row.tries > 1 && `, ${row.tries} tries`}</td>
      <td class="time">${clock(row.startedAt)}</td>
      <td class="time">${took(row.seconds)}</td>
      <td>${row.note ?? phases.find(({ name }) => name === row.name)?.says}</td>
    </tr>`,
  ]);
  return table('Phases', ['phase', 'state', 'began', 'took', 'what'], rows);
}

function took(value: number | null): string {
  return value === null ? '' : duration(value);
}

function clock(iso: string | null): string {
  return iso === null ? '' : iso.slice(11, 19);
}

/** Who said what, when, having seen what. */
export function decisions(status: UpgradeStatus): Html | null {
  const opened = status.gates.filter((gate) => gate.state !== 'pending');
  if (opened.length === 0 && status.attempts.length === 0) return null;
  return html`<section>
    <h2>Decisions</h2>
    <p>Started by ${status.startedBy ?? 'somebody who gave no name'}. Names are what people said of themselves.</p>
    ${opened.map(
      (gate) =>
        html`<details>
          <summary>
            Gate <strong>${gate.name}</strong>: ${gate.state}
            ${gate.by !== null && html`by <strong>${gate.by}</strong>`}
            ${gate.decidedAt !== null && `on ${timeText(gate.decidedAt)}`} ${gate.note !== null && html`“${gate.note}”`}
          </summary>
          ${
            gate.approvals.length > 0 &&
            html`<p>
              ${gate.approvals.length} of ${gate.needed} approvals:
              ${gate.approvals.map(({ by, at }) => `${by} on ${timeText(at)}`).join(', ')}
            </p>`
          }
          ${
            gate.evidence &&
            html`<p>Evidence <code>${gate.evidence.hash}</code></p>
              <dl class="evidence">${[...gate.evidence.facts, ...gate.evidence.shown].map(evidenceItem)}</dl>`
          }
        </details>`,
    )}
    ${table(
      'Messages',
      ['time', 'message', 'by', 'answer'],
      status.attempts.map(
        (attempt) =>
          html`<tr class="${attempt.accepted ? 'accepted' : 'refused'}">
            <td class="time">${clock(attempt.at)}</td>
            <td>${attempt.message} ${attempt.gate} (${attempt.how})</td>
            <td>${attempt.by ?? 'unknown'}</td>
            <td>
              ${attempt.accepted ? '' : 'refused: '}${attempt.says} ${attempt.note !== null && html`“${attempt.note}”`}
            </td>
          </tr>`,
      ),
    )}
    ${status.attemptsDropped > 0 && html`<p>${status.attemptsDropped} refused messages, the oldest, were not kept.</p>`}
  </section>`;
}

function evidenceItem({ name, value }: EvidenceItem): Html {
  const shown = Array.isArray(value)
    ? value.length === 0
      ? 'none'
      : html`<ul>
          ${value.map((line) => html`<li>${line}</li>`)}
        </ul>`
    : String(value);
  return html`<dt>${name}</dt>
    <dd>${typeof shown === 'string' && /^[0-9a-f]{64,}$/.test(shown) ? html`<code>${shown}</code>` : shown}</dd>`;
}
