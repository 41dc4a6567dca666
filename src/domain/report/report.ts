/**
 * The report of an upgrade, from nothing but its status: one self-contained page without scripts, fonts or links to other
 * places, to be kept beside the backup and read years later.
 */
import type { Check } from '../checks.ts';
import { duration, headline } from '../details.ts';
import type { ServiceFact } from '../facts.ts';
import { gates, phases } from '../phases.ts';
import { versionText } from '../plan.ts';
import {
  downtimeSeconds,
  gateWaitSeconds,
  secondsBetween,
  type EvidenceItem,
  type GateRow,
  type PhaseRow,
  type UpgradeStatus,
} from '../state.ts';
import { bytesText, countText, timeText } from '../text.ts';
import { html, type Html } from './html.ts';
import { style } from './style.ts';

/** The two files of a report, by name. `report.json` is the status as query `status` gives it. */
export function reportFiles(status: UpgradeStatus): { name: string; text: string }[] {
  return [
    { name: 'report.html', text: reportHtml(status) },
    { name: 'report.json', text: `${JSON.stringify(status, null, 2)}\n` },
  ];
}

/** Newest time the status knows of: the report speaks of that moment and needs no clock. */
function moment(status: UpgradeStatus): string {
  const times = status.phases.flatMap((row) => [row.startedAt, row.endedAt]);
  return times.reduce<string>((last, time) => (time !== null && time > last ? time : last), status.endedAt ?? '');
}

function reportHtml(status: UpgradeStatus): string {
  const title = `PostgreSQL upgrade ${status.workflowId.replace(/^pgleap\//, '')}`;
  const page = html`<!doctype html>
    <html lang="en">
      <head>
        <meta charset="utf-8" />
        <meta name="viewport" content="width=device-width, initial-scale=1" />
        <title>${title}</title>
        <style>
          ${{ markup: style }}
        </style>
      </head>
      <body>
        <main>
          ${header(status)} ${keyNumbers(status)} ${timeline(status)} ${phaseTable(status)} ${decisions(status)}
          ${proof(status)} ${services(status)} ${volumes(status)} ${settings(status)} ${checks(status)}
          ${troubles(status)} ${artifacts(status)} ${journal(status)}
          <footer>
            Written by pgleap from the workflow’s own state on ${timeText(moment(status))}. Every number here was
            measured; what nobody knows is shown as unknown.
          </footer>
        </main>
      </body>
    </html>`;
  return `${page.markup}\n`;
}

function versions(status: UpgradeStatus): { from: string; to: string } {
  const facts = status.plan?.facts;
  const to = status.gathered.candidate?.versionNum;
  return {
    from: facts ? versionText(facts.source.versionNum) : 'unknown',
    to: to === undefined ? String(facts?.targetMajor ?? 'unknown') : versionText(to),
  };
}

/**
 * What became of it. The report is written by one of the last phases: with all services back and no result yet, the
 * upgrade has done what it was for.
 */
function verdict(status: UpgradeStatus): { text: string; tone: 'good' | 'warn' | 'bad' } {
  if (status.result) {
    return status.result.ok ? { text: 'Upgraded', tone: 'good' } : { text: 'Rolled back', tone: 'warn' };
  }
  if (status.ending) {
    return status.ending.how === 'abort' ? { text: 'Aborted', tone: 'bad' } : { text: 'Going back', tone: 'warn' };
  }
  if (status.park?.action === null) return { text: 'Stopped, waits for a person', tone: 'bad' };
  if (status.committedAt !== null && status.downtime.to !== null) return { text: 'Upgraded', tone: 'good' };
  return { text: 'Under way', tone: 'warn' };
}

function header(status: UpgradeStatus): Html {
  const { from, to } = versions(status);
  const workload = status.plan?.facts?.cluster.database.workload;
  const { text, tone } = verdict(status);
  const why = status.result?.why ?? status.ending?.why ?? (text === 'Under way' ? headline(status) : null);
  return html`<header>
    <p class="eyebrow">PostgreSQL major upgrade</p>
    <h1>
      ${workload ? `${workload.namespace}/${workload.name}` : status.workflowId}
      <span class="versions">${from} <span aria-label="to">→</span> ${to}</span>
    </h1>
    <p><span class="pill ${tone}">${text}</span> ${why}</p>
    <dl class="facts">
      ${fact('Upgrade', status.upgradeId)} ${fact('Workflow', status.workflowId)}
      ${fact('Began', timeText(status.startedAt))} ${fact('Strategy', status.spec?.strategy ?? 'unknown')}
      ${fact('Image', status.spec?.target.image ?? 'unknown')}
      ${fact('Cluster', status.plan?.facts?.cluster.server ?? 'unknown')}
    </dl>
  </header>`;
}

function fact(name: string, value: string): Html {
  return html`<div>
    <dt>${name}</dt>
    <dd>${value}</dd>
  </div>`;
}

function keyNumbers(status: UpgradeStatus): Html {
  const now = moment(status);
  const { sourceFingerprint: source, trial, verified } = status.gathered;
  const down = downtimeSeconds(status, now);
  const waited = gateWaitSeconds(status, now);
  return html`<section class="numbers" aria-label="Key numbers">
    ${number(
      down === null ? 'none' : duration(down),
      'downtime',
      down === null ? 'no service was taken down' : `${duration(waited)} of it waiting for people`,
    )}
    ${number(
      source ? countText(source.rows) : 'unknown',
      'rows',
      source && `${countText(source.tables)} tables in ${source.databases} databases, ${source.roles} roles`,
    )}
    ${number(
      verified ? (verified.equal ? 'equal' : 'DIFFERENT') : 'not compared',
      'target against source',
      trial && `the trial before it: ${trial.equal ? 'equal' : 'DIFFERENT'}`,
    )}
    ${number(
      status.gathered.dump ? bytesText(status.gathered.dump.bytes) : 'none',
      'dump',
      status.gathered.dump && `taken in ${duration(status.gathered.dump.seconds)}`,
    )}
  </section>`;
}

function number(value: string, name: string, more: string | null | undefined): Html {
  return html`<div>
    <strong>${value}</strong>
    <span>${name}</span>
    <small>${more}</small>
  </div>`;
}

interface Span {
  kind: 'work' | 'wait';
  name: string;
  from: string;
  to: string;
}

/** Phases and waits as long as they were and where they were in time; what ran at the same time lies in several lanes. */
function timeline(status: UpgradeStatus): Html | null {
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

function phaseTable(status: UpgradeStatus): Html | null {
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

function table(title: string, heads: string[], rows: Html[], before: Html | null = null): Html | null {
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

/** Who said what, when, having seen what. */
function decisions(status: UpgradeStatus): Html | null {
  const opened = status.gates.filter((gate) => gate.state !== 'pending');
  if (opened.length === 0 && status.attempts.length === 0) return null;
  return html`<section>
    <h2>Decisions</h2>
    ${opened.map(
      (gate) =>
        html`<details>
          <summary>
            Gate <strong>${gate.name}</strong>: ${gate.state}
            ${gate.by !== null && html`by <strong>${gate.by}</strong>`}
            ${gate.decidedAt !== null && `on ${timeText(gate.decidedAt)}`} ${gate.note !== null && html`“${gate.note}”`}
          </summary>
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

/** The chain from the source’s rows to the target’s: each link with its checksum. */
function proof(status: UpgradeStatus): Html | null {
  const { dump, dumpArtifact, sourceFingerprint, sourceUnchanged, trial, restored, verified } = status.gathered;
  const links: [string, string, string | null, boolean | null][] = [];
  if (dump) links.push(['Dump in the candidate', bytesText(dump.bytes), dump.sha512, null]);
  if (dumpArtifact) {
    const same = dumpArtifact.sha512 === dump?.sha512;
    links.push(['The same in the artifact store', bytesText(dumpArtifact.bytes), dumpArtifact.sha512, same]);
  }
  if (sourceFingerprint) {
    const text = `${countText(sourceFingerprint.rows)} rows, ${sourceFingerprint.sequences} sequences, ${sourceFingerprint.largeObjects} large objects`;
    links.push(['Fingerprint of the source', text, sourceFingerprint.sha512, null]);
    links.push(['Source unchanged while it was dumped', '', null, sourceUnchanged]);
  }
  if (trial) {
    const text = `${trial.import.unexpectedCount} unexpected errors, ${trial.import.expected.length} expected; import ${duration(trial.import.seconds)}`;
    links.push(['Trial import of that dump', text, trial.dump, trial.import.unexpectedCount === 0]);
    links.push(['Trial’s fingerprint against the source’s', '', trial.fingerprint.sha512, trial.equal]);
    const logins = `${trial.logins.tried} tried${trial.logins.failed.length > 0 ? `; failed: ${trial.logins.failed.join(', ')}` : ''}`;
    links.push(['Logins in the trial', logins, null, trial.logins.failed.length === 0]);
  }
  if (restored) {
    const text = `${restored.import.unexpectedCount} unexpected errors; import ${duration(restored.import.seconds)}`;
    links.push(['Import into the target', text, null, restored.import.unexpectedCount === 0]);
  }
  if (verified) {
    const text = `${countText(verified.fingerprint.rows)} rows`;
    links.push(['Target’s fingerprint against the source’s', text, verified.fingerprint.sha512, verified.equal]);
  }
  return table(
    'Proof',
    ['what', '', 'SHA-512', ''],
    links.map(
      ([what, text, sha512, good]) =>
        html`<tr>
          <td>${what}</td>
          <td>${text}</td>
          <td>${sha512 !== null && html`<code>${sha512}</code>`}</td>
          <td>${good !== null && pill(good ? 'yes' : 'NO', good ? 'good' : 'bad')}</td>
        </tr>`,
    ),
  );
}

function pill(text: string, tone: 'good' | 'warn' | 'bad' | 'calm'): Html {
  return html`<span class="pill ${tone}">${text}</span>`;
}

function services(status: UpgradeStatus): Html | null {
  const facts = status.plan?.facts;
  if (!facts) return null;
  const { observed, missedRuns } = status.gathered;
  const routes = facts.routes.map(
    ({ pattern, prior }) =>
      html`<tr>
        <td>${pattern}</td>
        <td>route</td>
        <td>${prior === null ? 'no route before, none after' : `${prior.script ?? 'no Worker'} before and after`}</td>
      </tr>`,
  );
  const seen =
    observed &&
    html`<p>
      Seen afterwards: ${observed.sessions} sessions of ${observed.logins.join(', ') || 'nobody'},
      ${observed.transactionsPerSecond.toFixed(1)} transactions a
      second${
        observed.problems.length > 0
          ? html`; in the logs: ${observed.problems.join('; ')}`
          : '; nothing unusual in the logs'
      }.
      ${missedRuns.length > 0 && html`Runs missed meanwhile: ${missedRuns.join('; ')}.`}
    </p>`;
  return table(
    'Services and routes',
    ['what', 'kind', 'before the upgrade'],
    [...facts.cluster.services.map(serviceRow), ...routes],
    seen,
  );
}

function serviceRow(service: ServiceFact): Html {
  const before =
    service.kind === 'CronJob'
      ? service.suspended
        ? 'suspended already; left so'
        : 'suspended for the time'
      : service.readOnly
        ? 'read-only, stayed up'
        : `${service.replicas === 1 ? '1 replica' : `${service.replicas ?? 0} replicas`}${service.hpa === null ? '' : `, then as ${service.hpa} wants`}`;
  return html`<tr>
    <td>${service.namespace}/${service.name}</td>
    <td>${service.kind}</td>
    <td>${before}</td>
  </tr>`;
}

/** Where the old and the new data lie: what somebody needs who has to go back by hand. */
function volumes(status: UpgradeStatus): Html | null {
  const facts = status.plan?.facts;
  if (!facts) return null;
  const { volume, claim } = facts.cluster.database;
  const { clone, cloneActive, newClaim } = status.gathered;
  const rows: [string, string, string][] = [
    ['Original volume', `${volume.pv} (${volume.handle})`, `reclaim policy Retain`],
  ];
  if (clone)
    rows.push([
      'Clone',
      `${clone.label} (${clone.id})`,
      `${clone.sizeGb} GB, ${cloneActive ? 'active' : 'not active yet'}`,
    ]);
  if (newClaim) rows.push(['New volume', `${newClaim.pv} (${newClaim.handle})`, `under claim ${claim.name}`]);
  const kept =
    status.retentionEndsAt === null
      ? null
      : html`<p>Original volume and clone are kept at least until ${timeText(status.retentionEndsAt)}.</p>`;
  return table(
    'Volumes',
    ['what', 'which', ''],
    rows.map(
      (row) =>
        html`<tr>
          ${row.map((cell) => html`<td>${cell}</td>`)}
        </tr>`,
    ),
    kept,
  );
}

function settings(status: UpgradeStatus): Html | null {
  const carried = status.gathered.restored?.carried ?? [];
  return folded(
    'Settings that lived with the data',
    ['what', 'name', 'outcome', 'why'],
    carried,
    ({ outcome }) => outcome !== 'same',
    'were the same already',
    ({ what, name, outcome, why }) =>
      html`<tr>
        <td>${what}</td>
        <td><code>${name}</code></td>
        <td>${pill(outcome, outcome === 'refused' ? 'warn' : 'calm')}</td>
        <td>${why}</td>
      </tr>`,
  );
}

/** A table whose uninteresting rows are there, but folded away. */
function folded<T>(
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

const tones: Record<Check['status'], 'good' | 'warn' | 'bad' | 'calm'> = {
  PASSED: 'good',
  INFO: 'calm',
  SKIPPED: 'calm',
  WARNING: 'warn',
  FAILED: 'bad',
};

function checks(status: UpgradeStatus): Html | null {
  const all = [...(status.plan?.checks ?? []), ...status.gathered.candidateChecks];
  const order: Check['status'][] = ['FAILED', 'WARNING', 'INFO', 'PASSED', 'SKIPPED'];
  return folded(
    'Checks before anything was changed',
    ['', 'check', 'found'],
    order.flatMap((wanted) => all.filter((check) => check.status === wanted)),
    (check) => check.status !== 'PASSED' && check.status !== 'SKIPPED',
    'passed, or did not apply',
    (check) =>
      html`<tr>
        <td>${pill(check.status, tones[check.status])}</td>
        <td><code>${check.id}</code></td>
        <td>${check.message} ${check.remedy !== undefined && html`<em>${check.remedy}</em>`}</td>
      </tr>`,
  );
}

function troubles(status: UpgradeStatus): Html | null {
  const parks = [...status.parked, ...(status.park?.action === null ? [status.park] : [])];
  if (parks.length === 0 && status.notes.length === 0) return null;
  return html`<section>
    <h2>Worth knowing</h2>
    <ul>
      ${parks.map(
        (park) =>
          html`<li>
            ${timeText(park.since)}, phase ${park.phase}: <strong>${park.type}</strong>, ${park.message}
            ${park.action === null ? 'Not answered yet.' : `Answered ${park.action} by ${park.by ?? 'nobody'}.`}
          </li>`,
      )}
      ${status.notes.map((note) => html`<li>${note}</li>`)}
    </ul>
  </section>`;
}

function artifacts(status: UpgradeStatus): Html | null {
  const facts = status.plan?.facts;
  return table(
    'Artifacts',
    ['file', 'size', 'SHA-512'],
    status.gathered.artifacts.map(
      ({ name, bytes, sha512 }) =>
        html`<tr>
          <td>${name}</td>
          <td class="time">${bytesText(bytes)}</td>
          <td><code>${sha512}</code></td>
        </tr>`,
    ),
    facts &&
      html`<p>
        In <code>${facts.artifacts.folder}/${status.upgradeId}</code> of the worker that serves
        <code>${facts.artifacts.queue}</code>.
      </p>`,
  );
}

function journal(status: UpgradeStatus): Html | null {
  return table(
    'Journal: how each change is put back',
    ['phase', 'what', 'state'],
    status.undo.map(
      ({ phase, says, done }) =>
        html`<tr>
          <td>${phase}</td>
          <td>${says}</td>
          <td>${done ? 'put back' : 'stands'}</td>
        </tr>`,
    ),
  );
}
