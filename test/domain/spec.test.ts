import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { expect, test, describe } from 'vitest';
import { parse } from 'yaml';
import { specJsonSchema, specSchema } from '../../src/domain/spec.ts';
import { pathText, specProblems } from '../../src/domain/spec-problems.ts';
import { readmeBlocks } from '../client/commands.ts';

const least = { database: { namespace: 'databases' }, target: { image: 'postgres:18' } };

/** What is said about a bad spec, as `place: words`. */
function problems(input: unknown): string[] {
  const parsed = specSchema.safeParse(input);
  if (parsed.success) return [];
  return specProblems(parsed.error, input).map((problem) => `${pathText(problem.path)}: ${problem.says}`);
}

test('the committed JSON Schema is the spec’s own', async () => {
  const file = path.resolve(import.meta.dirname, '../../schema/upgrade.schema.json');
  const { title, description, ...schema } = JSON.parse(await readFile(file, 'utf8')) as Record<string, unknown>;
  expect(title).toBe('pgleap upgrade spec');
  expect(description).toBeTruthy();
  expect(schema, 'run npm run schema').toEqual(JSON.parse(JSON.stringify(specJsonSchema())));
});

test('the README’s smallest spec has under 15 lines and is valid', async () => {
  const [yaml = ''] = await readmeBlocks('Your own database', 'yaml');
  expect(yaml.trim().split('\n').length).toBeLessThan(15);
  expect(problems(parse(yaml))).toEqual([]);
});

describe('what is left out', () => {
  test('waits for people, and never for ever where waiting costs downtime', () => {
    const { gates, retention, rehearse, maintenance } = specSchema.parse(least);
    expect(gates).toEqual({
      begin: { policy: 'manual', timeLimit: '1d', remind: '30m', approvals: 1 },
      replace: { policy: 'manual', timeLimit: undefined, remind: '5m', approvals: 1 },
      reopen: { policy: 'manual', timeLimit: undefined, remind: '5m', approvals: 1 },
      cleanup: { policy: 'manual', timeLimit: '14d', remind: '1d', approvals: 1 },
    });
    expect({ retention, rehearse, maintenance }).toEqual({ retention: '7d', rehearse: false, maintenance: null });
  });

  test('keeps its default when another key of the same gate is given', () => {
    const { gates } = specSchema.parse({
      ...least,
      gates: { begin: { policy: 'auto' }, cleanup: { timeLimit: 'never' } },
    });
    expect(gates.begin).toEqual({ policy: 'auto', timeLimit: '1d', remind: '30m', approvals: 1 });
    expect(gates.cleanup).toEqual({ policy: 'manual', timeLimit: undefined, remind: '1d', approvals: 1 });
  });
});

test('without a clone a person must pass gate replace', () => {
  expect(problems({ ...least, clone: 'none' })).toEqual([]);
  for (const replace of ['auto', { policy: 'auto' }]) {
    expect(problems({ ...least, clone: 'none', gates: { replace } })).toEqual([
      expect.stringMatching(/^gates\.replace: .* expected manual: with clone: none .* a person must approve/),
    ]);
    expect(problems({ ...least, gates: { replace } })).toEqual([]);
  }
  expect(problems({ ...least, clone: 'nome' })).toEqual(['clone: found “nome”, expected a mapping or none']);
});

test('short forms mean the same as long ones', () => {
  const short = specSchema.parse({
    ...least,
    services: ['web/site', 'web/statefulset/queue', 'databases/cronjob/black-box', 'web/deployment/api.v2'],
    gates: { begin: 'auto' },
  });
  const long = specSchema.parse({
    ...least,
    services: [
      { namespace: 'web', name: 'site' },
      { kind: 'StatefulSet', namespace: 'web', name: 'queue' },
      { kind: 'CronJob', namespace: 'databases', name: 'black-box' },
      { kind: 'Deployment', namespace: 'web', name: 'api.v2' },
    ],
    gates: { begin: { policy: 'auto' } },
  });
  expect(short).toEqual(long);
});

describe('what is wrong is named, with what belongs there', () => {
  test.each<[string, unknown, string[]]>([
    ['nothing', null, ['the spec: found nothing (null), expected a mapping']],
    ['text', 'hello', ['the spec: found “hello”, expected a mapping']],
    ['no keys', {}, ['database: is missing; expected a mapping', 'target: is missing; expected a mapping']],
    ['a mistyped key', { ...least, sevices: [] }, ['sevices: unknown key; did you mean services?']],
    ['a key of another world', { ...least, clone: { zebra: 1 } }, ['clone.zebra: unknown key; known here: label']],
    [
      'a key in the wrong case',
      { ...least, maxdowntime: '1h' },
      ['maxdowntime: unknown key; did you mean maxDowntime?'],
    ],
    [
      'a number for an image',
      { ...least, target: { image: 18 } },
      ['target.image: found the number 18, expected text'],
    ],
    [
      'a bad duration',
      { ...least, retention: '7 days' },
      ['retention: found “7 days”, expected a duration such as 30s, 15m, 2h or 7d'],
    ],
    [
      'a short service that is none',
      { ...least, services: ['web'] },
      [
        'services[0]: found “web”, expected a service such as web/site, databases/cronjob/backup or web/statefulset/queue',
      ],
    ],
    [
      'a short service whose names are none',
      { ...least, services: ['-/site'] },
      [
        'services[0]: found “-/site”, expected a service such as web/site, databases/cronjob/backup or web/statefulset/queue',
      ],
    ],
    [
      'a long service with a typo',
      { ...least, services: [{ namespace: 'web', name: 'site', readonly: true }] },
      ['services[0].readonly: unknown key; did you mean readOnly?'],
    ],
    [
      'a list of the wrong thing',
      { ...least, services: [7] },
      ['services[0]: found the number 7, expected a mapping or text'],
    ],
    [
      'an unknown policy',
      { ...least, gates: { begin: { policy: 'no' } } },
      ['gates.begin.policy: found “no”, expected manual or auto'],
    ],
    [
      'a zone that is none',
      { ...least, maintenance: { zone: 'example.com', script: 'm', patterns: ['x/*'] } },
      ['maintenance.zone: found “example.com”, expected a Cloudflare zone id: 32 hexadecimal digits'],
    ],
    [
      'a manifest’s path where its text is needed',
      { ...least, database: { namespace: 'db', manifests: ['pg.yaml'] } },
      [
        'database.manifests[0]: found “pg.yaml”, expected the text of pg.yaml: `pgleap spec FILE` prints the spec with its manifests inlined',
      ],
    ],
    [
      'more approvals than approvers',
      { ...least, approvers: ['Ada'], gates: { replace: { approvals: 2 } } },
      ['gates.replace.approvals: found the number 2, expected at most 1, for so many are listed as approvers'],
    ],
    [
      'one approver twice',
      { ...least, approvers: ['Ada', ' ada '] },
      ['approvers: found a list, expected each name once'],
    ],
    [
      'an approver whose name cannot be seen',
      { ...least, approvers: ['A\u200Bda'] },
      ['approvers[0]: found “A\u200Bda”, expected a name; it holds control or invisible characters'],
    ],
    [
      'a rollback by itself after the commit point',
      { ...least, onFailure: { observe: { after: '5m', answer: 'rollback' } } },
      [
        'onFailure.observe.answer: found “rollback”, expected retry: phase observe comes after the commit point, from where nothing goes back by itself',
      ],
    ],
    [
      'a policy for a phase that does not exist',
      { ...least, onFailure: { restor: { after: '5m', answer: 'retry' } } },
      ['onFailure.restor: unknown key; did you mean restore?'],
    ],
    [
      'an answer that only people give',
      { ...least, onFailure: { default: { after: '5m', answer: 'abort' } } },
      ['onFailure.default.answer: found “abort”, expected retry or rollback'],
    ],
    [
      'a namespace with capitals',
      { ...least, database: { namespace: 'DB' } },
      ['database.namespace: found “DB”, expected a Kubernetes name: lower case letters, digits and dashes'],
    ],
  ])('%s', (_what, input, expected) => {
    expect(problems(input)).toEqual(expected);
  });

  test('all of it at once', () => {
    expect(problems({ databse: {}, target: { image: '' }, rehearse: 'yes' })).toHaveLength(4);
  });

  test('long texts are cut: somebody may have put a secret where none belongs', () => {
    const [said = ''] = problems({ ...least, retention: 'x'.repeat(200) });
    expect(said.length).toBeLessThan(130);
  });
});
