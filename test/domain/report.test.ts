import { expect, test } from 'vitest';
import { html } from '../../src/domain/report/html.ts';
import { compared, unseen } from '../../src/domain/old-world.ts';
import { reportFiles } from '../../src/domain/report/report.ts';
import { newStatus, phaseRow, type UpgradeStatus } from '../../src/domain/state.ts';

const nasty = `</style><script>alert("x")</script>&'`;

function page(status: UpgradeStatus): string {
  const file = reportFiles(status).find(({ name }) => name === 'report.html');
  return file?.text ?? '';
}

test('values are escaped, markup and lists of markup are not', () => {
  const items = ['a<b', nasty].map((text) => html`<li title="${text}">${text}</li>`);
  const nothing = [null, undefined, false] as const;
  const { markup } = html`<ul class="${1}">
    ${items}${nothing}
  </ul>`;
  expect(markup.replaceAll(/\n\s*/g, '')).toBe(
    '<ul class="1"><li title="a&lt;b">a&lt;b</li><li title="&lt;/style&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;">' +
      '&lt;/style&gt;&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;&amp;&#39;</li></ul>',
  );
});

test('an upgrade that has only begun has a report', () => {
  const text = page(newStatus('pgleap/db/postgres', 'u01234567', '2026-11-22T01:02:03.000Z'));
  expect(text).toContain('u01234567');
  expect(text).toContain('2026-11-22 01:02:03 UTC');
  expect(text).not.toMatch(/undefined|null|NaN|\[object/);
});

test('what people and the world wrote stays text, and nothing is fetched', () => {
  const status = newStatus('pgleap/db/postgres', 'u01234567', '2026-11-22T01:02:03.000Z');
  status.notes.push(nasty);
  Object.assign(phaseRow(status, 'backup'), { state: 'done', seconds: 3, note: nasty });
  status.gathered.candidateChecks = [{ id: nasty, status: 'WARNING', message: nasty, remedy: nasty }];
  status.attempts.push({
    at: '2026-11-22T01:02:04.000Z',
    how: 'signal',
    message: 'approve',
    by: nasty,
    gate: 'begin',
    accepted: false,
    says: nasty,
    note: nasty,
  });
  const text = page(status);
  expect(text.match(/<script/g)).toBeNull();
  expect(text.split('</style>')).toHaveLength(2);
  expect(text).not.toMatch(/(?:src|href|url\()\s*=?\s*["']?(?:https?:)?\/\//);
  expect(text).toContain('&lt;script&gt;');
});

test('an upgrade that went back says what was compared, which volume it is on, and what was kept and lost', () => {
  const status = newStatus('pgleap/db/postgres', 'u01234567', '2026-11-22T01:02:03.000Z');
  expect(page(status)).not.toContain('Going back');
  status.back = {
    compared: [
      compared('volume', 'volume under claim', '1-a', '1-a'),
      compared('service', 'Deployment web/site', '2 replicas', nasty),
      unseen('route', 'routes', 'as they were', 'no answer'),
    ],
    volume: 'clone',
    kept: { pv: 'pvc-new', handle: '9-new' },
    cloneKept: null,
    lostWrites: {
      at: '2026-11-22T01:03:00.000Z',
      transactions: 7,
      rows: { inserted: 5, updated: 1, deleted: 0 },
      databases: [],
      clients: ['app from web/site-1'],
      why: null,
    },
    switchedOff: [],
    missedRuns: [],
  };
  const text = page(status);
  for (const says of [
    'Going back',
    '1 of 3 things that were compared',
    'DIFFERENT',
    'not seen',
    'on the clone',
    'kept on volume 9-new (PV pvc-new',
    'Lost to the services:',
    'At most 7 transactions wrote: 5 rows inserted',
    'app from web/site-1',
  ]) {
    expect(text).toContain(says);
  }
  expect(text.match(/<script/g)).toBeNull();
  status.back = { ...status.back, volume: null, kept: null, lostWrites: null };
  expect(page(status)).toContain('no write was lost');
});

test('report.json is the status', () => {
  const status = newStatus('pgleap/db/postgres', 'u01234567', '2026-11-22T01:02:03.000Z');
  const file = reportFiles(status).find(({ name }) => name === 'report.json');
  expect(JSON.parse(file?.text ?? '')).toEqual(status);
});
