/** Holds the documents to the code: what the code can say, ask or refuse is explained, and what is explained exists. */
import { glob, readFile, stat } from 'node:fs/promises';
import path from 'node:path';
import { parse } from 'yaml';
import { describe, expect, test } from 'vitest';
import { filesOfRights } from '../../scripts/rights.ts';
import { sourceChecks } from '../../src/activities/postgres/checks.ts';
import { exitCodes } from '../../src/domain/exit-codes.ts';
import { failures } from '../../src/domain/failures.ts';
import { gates, gatesWithoutClone, phases } from '../../src/domain/phases.ts';
import { rights } from '../../src/domain/rights.ts';
import { specJsonSchema, specSchema } from '../../src/domain/spec.ts';

const root = path.resolve(import.meta.dirname, '../..');

function read(name: string): Promise<string> {
  return readFile(path.join(root, name), 'utf8');
}

async function files(...patterns: string[]): Promise<string[]> {
  const found: string[] = [];
  for await (const name of glob(patterns, { cwd: root })) found.push(name);
  return found.sort();
}

/** Product code by file name; the sandbox is not what operators run. */
async function sources(...patterns: string[]): Promise<Map<string, string>> {
  const names = (await files(...patterns)).filter((name) => !name.startsWith('src/sandbox'));
  return new Map(await Promise.all(names.map(async (name): Promise<[string, string]> => [name, await read(name)])));
}

/** Cells of every table row of a document, by the code in the first cell. */
async function rowsOf(name: string): Promise<Map<string, string[]>> {
  const rows = new Map<string, string[]>();
  for (const line of (await read(name)).split('\n')) {
    const [, key, rest] = /^\| *`([^`]+)` *\|(.*)\|$/.exec(line) ?? [];
    if (key !== undefined)
      rows.set(
        key,
        (rest ?? '').split(/(?<!\\)\|/).map((cell) => cell.trim()),
      );
  }
  return rows;
}

function blocks(text: string, language: string): string[] {
  return [...text.matchAll(new RegExp(`^\`\`\`${language}\\n([\\s\\S]*?)^\`\`\`$`, 'gm'))].map(
    ([, body]) => body ?? '',
  );
}

function headings(text: string): string[] {
  return [...text.matchAll(/^#{1,6} (.*)$/gm)].map(([, heading]) => heading ?? '');
}

describe('checks', () => {
  async function idsInCode(): Promise<Set<string>> {
    const texts = [...(await sources('src/**/*.ts')).values()];
    const ids = texts.flatMap((text) => [...text.matchAll(/\bid(?::| =) '([a-z]+(?:\.[a-z0-9-]+)?)'/g)]);
    const names = new Set(ids.map(([, id]) => id ?? ''));
    // Also where the id is an argument of some helper.
    const prefixes = new Set([...names].filter((id) => id.includes('.')).map((id) => id.split('.')[0]));
    const literal = new RegExp(`'((?:${[...prefixes].join('|')})\\.[a-z0-9-]+)'`, 'g');
    for (const text of texts) for (const [, id] of text.matchAll(literal)) names.add(id ?? '');
    return names;
  }

  test('docs/checks.md explains exactly the checks of the code', async () => {
    const known = await idsInCode();
    expect(known.size).toBeGreaterThan(80);
    expect([...(await rowsOf('docs/checks.md')).keys()].sort()).toEqual([...known].sort());
  });

  test('checks of the source have there the status and the AWS number that the code has', async () => {
    const rows = await rowsOf('docs/checks.md');
    for (const { id, status, aws } of sourceChecks) {
      expect([rows.get(id)?.[0], rows.get(id)?.at(-1)], id).toEqual([status, aws ?? '']);
    }
  });
});

describe('errors', () => {
  test('docs/errors.md explains exactly the failure types', async () => {
    const rows = [...(await rowsOf('docs/errors.md')).keys()].filter((key) => /^[A-Z]/.test(key));
    expect(rows.sort()).toEqual(Object.keys(failures).sort());
  });

  test('it says of each whether it is tried again', async () => {
    const rows = await rowsOf('docs/errors.md');
    for (const [type, { retry }] of Object.entries(failures)) {
      expect(rows.get(type)?.[0], type).toBe(retry ? 'yes' : 'no');
    }
  });

  test('docs/errors.md explains exactly the exit codes', async () => {
    const rows = [...(await rowsOf('docs/errors.md')).keys()].filter((key) => /^\d+$/.test(key));
    expect(rows.map(Number)).toEqual(Object.values(exitCodes).map(({ code }) => code));
  });
});

describe('spec', () => {
  type Schema = ReturnType<typeof specJsonSchema>;

  /** Every key with its default, `services[].name`; shorthands and null have no keys of their own. */
  function keysOf(schema: Schema, at = ''): Map<string, unknown> {
    const keys = new Map<string, unknown>();
    const inner = [schema, ...(schema.anyOf ?? [])].filter((one): one is Schema => typeof one === 'object');
    for (const one of inner) {
      for (const [name, below] of Object.entries(one.properties ?? {})) {
        if (typeof below !== 'object') continue;
        const key = at === '' ? name : `${at}.${name}`;
        keys.set(key, below.default);
        for (const [deeper, value] of keysOf(below, key)) keys.set(deeper, value);
      }
      const { items } = one;
      if (typeof items === 'object' && !Array.isArray(items)) {
        for (const [deeper, value] of keysOf(items, `${at}[]`)) keys.set(deeper, value);
      }
    }
    return keys;
  }

  function defaultText(value: unknown): string {
    if (value === undefined) return '–';
    return `\`${typeof value === 'string' ? value : JSON.stringify(value)}\``;
  }

  test('docs/spec.md has exactly the keys of the schema, with their defaults', async () => {
    const rows = await rowsOf('docs/spec.md');
    const documented = [...rows].map(([key, cells]) => `${key} ${cells[0]}`);
    const keys = [...keysOf(specJsonSchema())].map(([key, value]) => `${key} ${defaultText(value)}`);
    expect(documented.sort()).toEqual(keys.sort());
  });

  test('its examples are valid, and the full one uses every key', async () => {
    const examples = blocks(await read('docs/spec.md'), 'yaml');
    const smallest = examples[0] ?? '';
    const full = examples.at(-1) ?? '';
    for (const example of examples) {
      const { error } = specSchema.safeParse(withManifests({ ...parse(smallest), ...parse(example) }));
      expect(error).toBeUndefined();
    }
    expect(smallest.trim().split('\n').length).toBeLessThan(15);
    expect(specSchema.safeParse(withManifests(parse(full))).error).toBeUndefined();
    const used = new Set(pathsOf(parse(full)));
    const inline = /^database\.manifests\[\]\./;
    expect([...keysOf(specJsonSchema()).keys()].filter((key) => !used.has(key) && !inline.test(key))).toEqual([]);
  });

  /** As the client does it; the texts do not matter here. */
  function withManifests(spec: { database: { manifests?: string[] } }): unknown {
    const manifests = (spec.database.manifests ?? []).map((name) => ({ name, text: '' }));
    return { ...spec, database: { ...spec.database, manifests } };
  }

  function pathsOf(value: unknown, at = ''): string[] {
    if (Array.isArray(value)) return value.flatMap((one) => pathsOf(one, `${at}[]`));
    if (typeof value !== 'object' || value === null) return [];
    return Object.entries(value).flatMap(([name, below]) => {
      const key = at === '' ? name : `${at}.${name}`;
      return [key, ...pathsOf(below, key)];
    });
  }
});

describe('phases and gates', () => {
  test('docs/phases.md has a section of each phase, in their order', async () => {
    const names = phases.map(({ name }) => name as string);
    const sections = headings(await read('docs/phases.md')).filter((heading) => names.includes(heading));
    expect(sections).toEqual(names);
  });

  test('docs/gates.md has a section of each gate, in their order, with its question', async () => {
    const text = await read('docs/gates.md');
    const names = gates.map(({ name }) => name as string);
    expect(headings(text).filter((heading) => names.includes(heading))).toEqual(names);
    for (const asks of [...gates.map((gate) => gate.asks), ...Object.values(gatesWithoutClone)])
      expect(text).toContain(asks);
  });

  test('docs/gates.md names every item of evidence', async () => {
    const text = await read('docs/gates.md');
    const items = [...(await read('src/domain/evidence.ts')).matchAll(/\bitem\(\s*'([^']+)'/g)].map(([, name]) => name);
    expect(items.length).toBeGreaterThan(30);
    expect(items.filter((name) => !text.includes(`\`${name}\``))).toEqual([]);
  });
});

test('the roles of deploy/ and docs/rbac.md are those of src/domain/rights.ts (npm run rights)', async () => {
  for (const [name, text] of await filesOfRights()) expect(await read(name), name).toBe(text);
});

test('src/domain/rights.ts allows what the code asks of the API server', async () => {
  const client = await read('src/activities/kubernetes/client.ts');
  const resources = new Map(
    [...client.matchAll(/^ {2}(\w+): \['\/apis?\/(?:([\w.]+)\/)?v\d', '(\w+)'/gm)].map(
      ([, kind = '', group = '', resource = '']) => [kind, { group, resource }],
    ),
  );
  expect(resources.size).toBeGreaterThan(10);
  const allowed = new Set(
    Object.values(rights).flatMap((rules) =>
      rules.flatMap(({ group, resource, verbs }) => verbs.map((verb) => `${verb} ${resource}.${group}`)),
    ),
  );
  const verbs = {
    get: 'get',
    find: 'get',
    list: 'list',
    create: 'create',
    replace: 'update',
    patch: 'patch',
    remove: 'delete',
  };
  const asked = new Set<string>();
  for (const text of (await sources('src/activities/**/*.ts')).values()) {
    for (const [, method = '', kind = ''] of text.matchAll(/\bkube\s*\.(\w+)\(\s*'(\w+)'/g)) {
      const verb = Object.entries(verbs).find(([name]) => name === method)?.[1];
      const { group, resource } = resources.get(kind) ?? { group: '?', resource: kind };
      asked.add(`${verb} ${resource}.${group}`);
    }
  }
  expect(asked.size).toBeGreaterThan(20);
  expect([...asked].filter((one) => !allowed.has(one))).toEqual([]);
});

describe('links', () => {
  /** GitHub's anchors. */
  function anchor(heading: string): string {
    return heading
      .toLowerCase()
      .replaceAll(/[`*]/g, '')
      .replaceAll(/[^\p{L}\p{N} _-]/gu, '')
      .replaceAll(' ', '-');
  }

  test('every relative link in the documents leads somewhere', async () => {
    const broken: string[] = [];
    for (const file of await files('*.md', 'docs/**/*.md', 'examples/**/*.md')) {
      const text = (await read(file)).replaceAll(/^```[\s\S]*?^```$/gm, '');
      for (const [, link = ''] of text.matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(link)) continue;
        const [to = '', fragment] = link.split('#');
        const name = to === '' ? file : path.join(path.dirname(file), to);
        const there = await stat(path.join(root, name)).catch(() => undefined);
        const known =
          fragment === undefined ||
          (there?.isFile() &&
            headings(await read(name))
              .map(anchor)
              .includes(fragment));
        if (there === undefined || !known) broken.push(`${file}: ${link}`);
      }
    }
    expect(broken).toEqual([]);
  });

  test('every test that a document names is there', async () => {
    const named = new Set<string>();
    for (const file of await files('*.md', 'docs/**/*.md')) {
      for (const [name] of (await read(file)).matchAll(/\btest\/[\w/.-]+\.ts\b/g)) named.add(name);
    }
    expect(named.size).toBeGreaterThan(30);
    const there = new Set(await files('test/**/*.ts'));
    expect([...named].filter((name) => !there.has(name))).toEqual([]);
  });

  test('every document that the code speaks of is there', async () => {
    const named = [...(await sources('src/**/*.ts', 'scripts/*')).values()].flatMap((text) =>
      [...text.matchAll(/\bdocs\/[\w/-]+\.md\b/g)].map(([name]) => name),
    );
    const there = new Set(await files('docs/**/*.md'));
    expect(named.length).toBeGreaterThan(3);
    expect(named.filter((name) => !there.has(name))).toEqual([]);
  });

  test('every document is reached from the README', async () => {
    const reached = new Set<string>(['README.md']);
    for (const file of reached) {
      for (const [, link = ''] of (await read(file)).matchAll(/\]\(([^)\s#]+\.md)(?:#[^)]*)?\)/g)) {
        if (!/^[a-z]+:/.test(link)) reached.add(path.join(path.dirname(file), link));
      }
    }
    expect((await files('docs/**/*.md')).filter((file) => !reached.has(file))).toEqual([]);
  });

  test('every file that a shell command of the documents takes from deploy/ is there', async () => {
    const missing: string[] = [];
    let seen = 0;
    for (const file of await files('*.md', 'docs/**/*.md')) {
      for (const block of blocks(await read(file), 'sh')) {
        for (const [name] of block.matchAll(/\bdeploy\/[\w./-]+/g)) {
          seen += 1;
          // The reader's own copy of the example.
          const place = name.replace('deploy/mine', 'deploy/example');
          const there = await stat(path.join(root, place)).catch(() => undefined);
          const folder = there?.isDirectory() ? `${place}/kustomization.yaml` : place;
          if ((await stat(path.join(root, folder)).catch(() => undefined)) === undefined)
            missing.push(`${file}: ${name}`);
        }
      }
    }
    expect(seen).toBeGreaterThan(5);
    expect(missing).toEqual([]);
  });

  /** Commands of `pgleap` by name; whether one cannot go without an argument. */
  async function commands(): Promise<Map<string, boolean>> {
    const client = await read('src/client/pgleap.ts');
    const found = new Map<string, boolean>();
    for (const part of client.split(/\bcommand\(\s*(?=')/).slice(1)) {
      found.set(/^'(\w+)'/.exec(part)?.[1] ?? '', /\.argument\('</.test(part));
    }
    for (const [, list = ''] of client.matchAll(/for \(const name of \[([^\]]+)\]/g)) {
      for (const [, name] of list.matchAll(/'(\w+)'/g)) found.set(name ?? '', false);
    }
    expect(found.size).toBeGreaterThan(10);
    return found;
  }

  test('every pgleap command in the documents exists', async () => {
    const known = await commands();
    const unknown: string[] = [];
    for (const file of await files('*.md', 'docs/**/*.md')) {
      const text = await read(file);
      const code = [...text.matchAll(/^```sh\n([\s\S]*?)^```$/gm), ...text.matchAll(/`([^`\n]+)`/g)];
      for (const [, part = ''] of code) {
        for (const [, name = ''] of part.matchAll(/(?:^|\/)pgleap ([a-z]+)\b/gm)) {
          if (!known.has(name)) unknown.push(`${file}: pgleap ${name}`);
        }
      }
    }
    expect(unknown).toEqual([]);
  });

  test('every pgleap command that the code tells people to type has its argument', async () => {
    const known = await commands();
    const wrong: string[] = [];
    let seen = 0;
    for (const [file, text] of await sources('src/**/*.ts')) {
      const code = text.replaceAll(/\/\*[\s\S]*?\*\/|^\s*\/\/.*$/gm, '');
      for (const [, name = '', rest = ''] of code.matchAll(/(?:: |[`'])pgleap ([a-z]+)\b(?=(.*))/g)) {
        if (!known.get(name)) continue;
        seen += 1;
        if (!/^ (?:\w|\$\{)/.test(rest)) wrong.push(`${file}: pgleap ${name}${rest}`);
      }
    }
    expect(seen).toBeGreaterThan(10);
    expect(wrong).toEqual([]);
  });
});
