/** The report's part on what was found and made: proof, services, volumes, settings, checks, files. */
import { probeText, probeTimes } from '../probes.ts';
import type { Check } from '../checks.ts';
import { failedText } from '../details.ts';
import { bytesText, countText, duration, firstOf, timeText } from '../text.ts';
import type { ServiceFact } from '../facts.ts';
import type { UpgradeStatus } from '../state.ts';
import { html, type Html } from './html.ts';
import { folded, pill, table } from './parts.ts';

/** The chain from the source’s rows to the target’s: each link with its checksum. */
export function proof(status: UpgradeStatus): Html | null {
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
    const logins = `${trial.logins.tried} tried${trial.logins.failed.length > 0 ? `; failed: ${firstOf(trial.logins.failed, trial.logins.failedCount).join(', ')}` : ''}`;
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

export function services(status: UpgradeStatus): Html | null {
  const facts = status.plan?.facts;
  if (!facts) return null;
  const { observed, missedRuns } = status.gathered;
  const times = probeTimes(status.spec?.probes ?? [], facts.source.probeMs, observed?.probeMs ?? []);
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
      ${times.length > 0 && html`Query times: ${times.map(probeText).join('; ')}.`}
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
  const count = service.replicas === 1 ? '1 replica' : `${service.replicas ?? 0} replicas`;
  const before = service.readOnly
    ? 'read-only, stayed up'
    : service.kind === 'CronJob'
      ? service.suspended
        ? 'suspended already; left so'
        : 'suspended for the time'
      : `${count}${service.hpa === null ? '' : `, then as ${service.hpa} wants`}`;
  return html`<tr>
    <td>${service.namespace}/${service.name}</td>
    <td>${service.kind}</td>
    <td>${before}</td>
  </tr>`;
}

/** Where the old and the new data lie: what somebody needs who has to go back by hand. */
export function volumes(status: UpgradeStatus): Html | null {
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
  if (status.spec?.clone === 'none') rows.push(['Clone', 'none', 'the spec says clone: none']);
  if (newClaim) rows.push(['New volume', `${newClaim.pv} (${newClaim.handle})`, `under claim ${claim.name}`]);
  const kept =
    status.retentionEndsAt === null
      ? null
      : html`<p>
          ${clone ? 'Original volume and clone are' : 'The original volume is'} kept at least until
          ${timeText(status.retentionEndsAt)}.
        </p>`;
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

export function settings(status: UpgradeStatus): Html | null {
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

const tones: Record<Check['status'], 'good' | 'warn' | 'bad' | 'calm'> = {
  PASSED: 'good',
  INFO: 'calm',
  SKIPPED: 'calm',
  WARNING: 'warn',
  FAILED: 'bad',
};

export function checks(status: UpgradeStatus): Html | null {
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

export function troubles(status: UpgradeStatus): Html | null {
  const parks = [...status.parked, ...(status.park?.action === null ? [status.park] : [])];
  if (parks.length === 0 && status.notes.length === 0) return null;
  return html`<section>
    <h2>Worth knowing</h2>
    <ul>
      ${parks.map(
        (park) =>
          html`<li>
            ${timeText(park.since)}, phase ${park.phase}: <strong>${park.type}</strong>, ${failedText(park.failed)}
            ${park.message}
            ${park.action === null ? 'Not answered yet.' : `Answered ${park.action} by ${park.by ?? 'nobody'}.`}
            ${park.note !== null && html`“${park.note}”`}
            ${park.world.length > 0 && html`How things stood: ${park.world.join(' ')}`}
          </li>`,
      )}
      ${status.notes.map((note) => html`<li>${note}</li>`)}
    </ul>
  </section>`;
}

export function artifacts(status: UpgradeStatus): Html | null {
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

export function journal(status: UpgradeStatus): Html | null {
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
