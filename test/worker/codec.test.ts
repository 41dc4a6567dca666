import { writeFile } from 'node:fs/promises';
import path from 'node:path';
import { defaultPayloadConverter, toPayloads } from '@temporalio/common';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { loadCodec, loadDataConverter } from '../../src/worker/codec.ts';
import { openTerminal, type Terminal } from '../client/commands.ts';
import { startHarness, type Harness } from '../workflows/harness.ts';

const [first, second] = ['a1'.repeat(32), 'b2'.repeat(32)];
/** A text that stands in the spec, and so in arguments, results, messages, details and summaries. */
const telling = 'image-of-a-telling-name';

let harness: Harness;
let terminal: Terminal;
let keyFile: string;

beforeAll(async () => {
  terminal = await openTerminal({});
  keyFile = path.join(terminal.folder, 'codec.key');
  await writeFile(keyFile, `${first}\n`, { mode: 0o600 });
  harness = await startHarness('codec', loadDataConverter({ PGLEAP_CODEC_KEY_FILE: keyFile }));
});

afterAll(async () => {
  await harness?.close();
  await terminal?.close();
});

async function codecOf(text: string) {
  await terminal.write('other.key', text);
  const codec = loadCodec({ PGLEAP_CODEC_KEY_FILE: path.join(terminal.folder, 'other.key') });
  if (codec === undefined) throw new Error('no codec');
  return codec;
}

test('what is encrypted is read again with the same key, also when a new one stands before it, and with no other', async () => {
  const payloads = toPayloads(defaultPayloadConverter, { a: telling }) ?? [];
  const old = await codecOf(first);
  const sealed = await old.encode(payloads);
  expect(Buffer.from(sealed[0]?.data ?? []).toString('latin1')).not.toContain(telling);
  expect(await old.encode(payloads)).not.toEqual(sealed);
  const both = await codecOf(`${second}\n${first}\n`);
  const opened = (await both.decode(sealed)).map((payload) => defaultPayloadConverter.fromPayload(payload));
  expect(opened).toEqual([{ a: telling }]);
  await expect((await codecOf(second)).decode(sealed)).rejects.toThrow(/No key in PGLEAP_CODEC_KEY_FILE has the id/);
  sealed[0]?.data?.fill(7, 30);
  await expect(old.decode(sealed)).rejects.toThrow(/unable to authenticate/);
  expect(await old.decode(payloads)).toEqual(payloads);
});

test('no file is no codec, and a wrong one is explained without its text', () => {
  expect(loadDataConverter({})).toBeUndefined();
  expect(() => loadCodec({ PGLEAP_CODEC_KEY_FILE: '/nowhere' })).toThrow(/cannot be read/);
  expect(() => loadCodec({ PGLEAP_CODEC_KEY_FILE: import.meta.filename })).toThrow(/64 hexadecimal digits/);
});

test('the server keeps nothing readable of an upgrade, and pgleap reads and answers it all the same', async () => {
  const upgrade = await harness.start({ spec: { approvers: [telling, 'ada'] } });
  await upgrade.answer('begin', 'reject');
  await expect(upgrade.handle.result()).resolves.toMatchObject({ outcome: 'rolled-back' });
  const { workflowId } = upgrade.handle;
  const address = `TEMPORAL_ADDRESS=${harness.env.address}`;

  const history = await terminal.type(`${address} temporal workflow show --workflow-id ${workflowId} --output json`);
  expect(history.code, history.stderr).toBe(0);
  expect(history.stdout.length).toBeGreaterThan(5000);
  const base64 = [...history.stdout.matchAll(/"([\w+/=]{8,})"/g)].map(([, text]) => Buffer.from(text ?? '', 'base64'));
  for (const text of [history.stdout, ...base64.map((bytes) => bytes.toString('latin1'))]) {
    expect(text).not.toContain(telling);
    // Of the spec, of a summary, of a message.
    expect(text).not.toMatch(/postgres:18|preflight: |"by"/);
  }

  const plain = await terminal.type(`${address} pgleap status ${workflowId} --json`);
  expect(plain.stdout + plain.stderr).not.toContain(telling);
  expect(plain.code).not.toBe(0);
  const read = await terminal.type(`${address} PGLEAP_CODEC_KEY_FILE=${keyFile} pgleap status ${workflowId} --json`);
  expect(read.code, read.stderr).toBe(0);
  expect(read.stdout).toContain(telling);
});

test('plain temporal, which has no key, may still answer a gate', async () => {
  const upgrade = await harness.start();
  await upgrade.until(({ gates }) => gates[0]?.state === 'open');
  const input = JSON.stringify({ gate: 'begin', by: 'ada' });
  const sent = await terminal.type(
    `TEMPORAL_ADDRESS=${harness.env.address} temporal workflow signal --workflow-id ${upgrade.handle.workflowId} --name reject --input '${input}'`,
  );
  expect(sent.code, sent.stderr).toBe(0);
  await expect(upgrade.handle.result()).resolves.toMatchObject({ outcome: 'rolled-back' });
});
