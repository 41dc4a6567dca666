/** Reads `upgrade.yaml` into what the workflow takes; every problem names file, line, column, place and remedy. */
import { readFile } from 'node:fs/promises';
import path from 'node:path';
import { isMap, isNode, isScalar, LineCounter, parseAllDocuments, parseDocument, type Document } from 'yaml';
import { messageOf } from '../activities/errors.ts';
import { UserError } from '../domain/exit-codes.ts';
import { specSchema, type Spec } from '../domain/spec.ts';
import { pathText, specProblems, type SpecProblem } from '../domain/spec-problems.ts';

export interface SpecFile {
  /** What the workflow gets: as written, with the manifests' texts put in. */
  input: Record<string, unknown>;
  /** The same with every default, for what the client itself needs to know. */
  spec: Spec;
}

/** Throws UserError `usage` for a file that cannot be read and `invalidSpec` with all problems of one that can. */
export async function readSpecFile(file: string): Promise<SpecFile> {
  const source = await readText(file, 'spec');
  const lines = new LineCounter();
  const document = read(file, () => parseDocument(source, { lineCounter: lines, prettyErrors: false }));
  // What comes after the first mistake in the syntax is mostly its echo.
  const [mistake] = document.errors;
  if (mistake) throw invalid([`${place(file, lines, mistake.pos[0])}: ${mistake.message.slice(0, 200)}`]);
  const written: unknown = read(file, () => document.toJS());
  const input = await inlineManifests(file, written);
  refuseSecrets(input);
  const parsed = specSchema.safeParse(input);
  if (parsed.success && isRecord(input)) return { input, spec: parsed.data };
  const problems = parsed.success ? [] : specProblems(parsed.error, input);
  const located = problems.map((problem) => ({ problem, offset: offsetOf(document, problem) }));
  located.sort((a, b) => a.offset - b.offset);
  throw invalid(
    located.map(({ problem, offset }) => `${place(file, lines, offset)}: ${pathText(problem.path)}: ${problem.says}`),
  );
}

function invalid(problems: string[]): UserError {
  const more = problems.length === 1 ? 'The spec has a problem' : `The spec has ${problems.length} problems`;
  return new UserError('invalidSpec', `${more}; nothing was started.\n${problems.join('\n')}`);
}

/** Aliases of aliases that would fill the memory, and what is nested too deep, end the parser with errors of its own. */
function read<T>(file: string, parse: () => T): T {
  try {
    return parse();
  } catch (error) {
    throw invalid([`${file}: ${error instanceof RangeError ? 'it is nested too deep' : messageOf(error)}`]);
  }
}

function place(file: string, lines: LineCounter, offset: number): string {
  const { line, col } = lines.linePos(offset);
  return `${file}:${Math.max(line, 1)}:${Math.max(col, 1)}`;
}

/** Where to point: at the key that is unknown, at the value that is wrong, or at what lacks something. */
function offsetOf(document: Document, { path: where, atKey }: SpecProblem): number {
  const last = where.at(-1);
  if (atKey) {
    const parent = document.getIn(where.slice(0, -1), true) ?? document.contents;
    const pair = isMap(parent)
      ? parent.items.find(({ key }) => isScalar(key) && String(key.value) === String(last))
      : null;
    if (isNode(pair?.key)) return pair.key.range?.[0] ?? 0;
  }
  for (let depth = where.length; depth > 0; depth -= 1) {
    const node: unknown = document.getIn(where.slice(0, depth), true);
    if (isNode(node)) return node.range?.[0] ?? 0;
  }
  return document.contents?.range?.[0] ?? 0;
}

/** Manifests are named by path, relative to the spec: the worker may be elsewhere, so their texts travel with it. */
async function inlineManifests(file: string, input: unknown): Promise<unknown> {
  const database = isRecord(input) ? input['database'] : undefined;
  const manifests = isRecord(database) ? database['manifests'] : undefined;
  if (!isRecord(input) || !isRecord(database) || !Array.isArray(manifests)) return input;
  const inlined = await Promise.all(
    manifests.map(async (manifest: unknown) => {
      if (typeof manifest !== 'string') return manifest;
      return { name: manifest, text: await readText(path.resolve(path.dirname(file), manifest), 'manifest') };
    }),
  );
  return { ...input, database: { ...database, manifests: inlined } };
}

/** What is sent stays in Temporal's history: throws UserError naming every place that holds a secret, never the secret. */
function refuseSecrets(input: unknown): void {
  const database = isRecord(input) ? input['database'] : undefined;
  const target = isRecord(input) ? input['target'] : undefined;
  const manifests = isRecord(database) && Array.isArray(database['manifests']) ? database['manifests'] : [];
  const found = isRecord(target) ? secretsIn(target['patch']).map((what) => `target.patch: ${what}`) : [];
  for (const manifest of manifests) {
    if (!isRecord(manifest) || typeof manifest['text'] !== 'string') continue;
    const { text } = manifest;
    const name = String(manifest['name']);
    const documents = read(name, () => parseAllDocuments(text, { prettyErrors: false }));
    for (const document of Array.isArray(documents) ? documents : []) {
      // A file that is no YAML is not edited either; the worker says so.
      if (document.errors.length > 0) continue;
      found.push(...secretsIn(read(name, () => document.toJS())).map((what) => `${name}: ${what}`));
    }
  }
  if (found.length === 0) return;
  throw invalid(
    found.map(
      (what) =>
        `${what}. It would stay in Temporal’s history: keep it in a Secret, in a file of its own that is not listed`,
    ),
  );
}

const secretName = /PASS|PWD|SECRET|TOKEN|CREDENTIAL|(?:API|PRIVATE|ACCESS|ENCRYPTION|SIGNING)_?KEY|CONNINFO|DSN/i;

function secretsIn(value: unknown): string[] {
  if (Array.isArray(value)) return value.flatMap(secretsIn);
  if (!isRecord(value)) return [];
  const { kind, name, value: literal } = value;
  if (kind === 'Secret' && (isRecord(value['data']) || isRecord(value['stringData'])))
    return ['a Secret with its data'];
  // As in a container's env: a name with a literal value.
  if (typeof name === 'string' && typeof literal === 'string' && literal !== '') {
    const byUrl = /:\/\/[^\s:/@]+:[^\s@]+@/.test(literal);
    if (byUrl || (secretName.test(name) && !/_(?:FILE|PATH|METHOD)$/i.test(name)))
      return [`a literal value of ${name}`];
  }
  return Object.values(value).flatMap(secretsIn);
}

async function readText(file: string, what: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : '';
    const why = code === 'ENOENT' ? 'there is no such file' : code === 'EISDIR' ? 'it is a folder' : String(error);
    throw new UserError('usage', `The ${what} ${file} cannot be read: ${why}.`, { cause: error });
  }
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
