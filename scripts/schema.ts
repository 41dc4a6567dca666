/** Writes schema/upgrade.schema.json from the spec's one definition; a test holds the two equal. */
import { mkdir, writeFile } from 'node:fs/promises';
import path from 'node:path';
import { format, resolveConfig } from 'prettier';
import { specJsonSchema } from '../src/domain/spec.ts';

const file = path.resolve(import.meta.dirname, '../schema/upgrade.schema.json');
const schema = {
  ...specJsonSchema(),
  title: 'pgleap upgrade spec',
  description: 'What the operator writes as upgrade.yaml',
};
const options = await resolveConfig(file);
await mkdir(path.dirname(file), { recursive: true });
await writeFile(file, await format(JSON.stringify(schema), { ...options, parser: 'json' }));
