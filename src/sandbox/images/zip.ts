import { readFile } from 'node:fs/promises';
import { inflateRawSync } from 'node:zlib';

const END_OF_CENTRAL_DIRECTORY = 0x06054b50;
const CENTRAL_ENTRY = 0x02014b50;
const MAX_COMMENT = 0xffff;

/** One file inside a zip archive; `read` inflates it. */
export interface ZipEntry {
  name: string;
  read(): Buffer;
}

/**
 * Lists the files of a zip archive (a Python wheel is one). Here because neither `unzip` nor Python can be counted on.
 * Deflated and stored entries only, no zip64: enough for wheels, and anything else throws.
 */
export async function readZip(path: string): Promise<ZipEntry[]> {
  const archive = await readFile(path);
  let end = archive.length - 22;
  while (end >= 0 && archive.readUInt32LE(end) !== END_OF_CENTRAL_DIRECTORY) {
    end -= 1;
    if (end < archive.length - 22 - MAX_COMMENT) end = -1;
  }
  if (end < 0) throw new Error(`${path} is not a zip archive`);

  const count = archive.readUInt16LE(end + 10);
  let at = archive.readUInt32LE(end + 16);
  const entries: ZipEntry[] = [];
  for (let i = 0; i < count; i += 1) {
    if (archive.readUInt32LE(at) !== CENTRAL_ENTRY) throw new Error(`${path}: broken central directory`);
    const method = archive.readUInt16LE(at + 10);
    const packed = archive.readUInt32LE(at + 20);
    const nameLength = archive.readUInt16LE(at + 28);
    const local = archive.readUInt32LE(at + 42);
    const name = archive.toString('utf8', at + 46, at + 46 + nameLength);
    at += 46 + nameLength + archive.readUInt16LE(at + 30) + archive.readUInt16LE(at + 32);
    if (name.endsWith('/')) continue;
    entries.push({
      name,
      read() {
        const start = local + 30 + archive.readUInt16LE(local + 26) + archive.readUInt16LE(local + 28);
        const bytes = archive.subarray(start, start + packed);
        if (method === 0) return bytes;
        if (method === 8) return inflateRawSync(bytes);
        throw new Error(`${path}: ${name} uses compression method ${method}`);
      },
    });
  }
  return entries;
}
