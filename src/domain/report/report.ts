/**
 * The report of an upgrade, from nothing but its status: one self-contained page without scripts, fonts or links to other
 * places, to be kept beside the backup and read years later.
 */
import { headline } from '../details.ts';
import { bytesText, countText, duration, placeOf, timeText } from '../text.ts';
import { versionText } from '../versions.ts';
import { downtimeSeconds, gateWaitSeconds, type UpgradeStatus } from '../state.ts';
import { wayBack } from './back.ts';
import { decisions, phaseTable, timeline } from './course.ts';
import { artifacts, checks, journal, proof, services, settings, troubles, volumes } from './findings.ts';
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
  const title = `PostgreSQL upgrade ${placeOf(status.workflowId)}`;
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
          ${header(status)} ${keyNumbers(status)} ${wayBack(status)} ${timeline(status)} ${phaseTable(status)}
          ${decisions(status)} ${proof(status)} ${services(status)} ${volumes(status)} ${settings(status)}
          ${checks(status)} ${troubles(status)} ${artifacts(status)} ${journal(status)}
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
