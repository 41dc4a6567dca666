/**
 * The example services of the sandbox, in one program: `site` shows a page and counts visits, `writer` inserts rows all the time and
 * remembers what was acknowledged, `reader` only reads. They use the database as their like in a real cluster would.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import { hostname } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import { log } from './log.ts';
import { openDatabase } from './psql.ts';

const mode = setting('SERVICE_MODE');
const name = process.env['SERVICE_NAME'] ?? mode;
const database = openDatabase(setting('DATABASE_URL'), name);
const ending = new AbortController();
let lastSuccess = 0;

const server = createServer((request, response) => {
  const path = new URL(request.url ?? '/', 'http://service').pathname;
  void answer(path)
    .catch((error: unknown): Answer => {
      if (path !== '/healthz') log('warn', `${path} answered 503: ${String(error)}`);
      return { status: 503, body: `${name} has no database at the moment\n` };
    })
    .then(({ status, type = 'text/plain', body, headers = {} }) =>
      response.writeHead(status, { 'content-type': `${type}; charset=utf-8`, ...headers }).end(body),
    );
});

interface Answer {
  status: number;
  type?: string;
  body: string;
  headers?: Record<string, string>;
}

async function answer(path: string): Promise<Answer> {
  if (path === '/healthz') {
    if (mode === 'site') await database.query('SELECT 1');
    // A reader that has lost its database is not down: Grafana shows empty panels and goes on.
    const healthy = mode !== 'writer' || Date.now() - lastSuccess < 3000;
    return { status: healthy ? 200 : 503, body: healthy ? 'ok\n' : 'no row acknowledged for 3 s\n' };
  }
  if (mode !== 'site' || path !== '/') return { status: 404, body: 'not found\n' };
  const [visit] = await database.query('INSERT INTO visits (path, pod) VALUES ($1, $2) RETURNING id', [
    path,
    hostname(),
  ]);
  const [id = ''] = visit ?? [];
  const products = await database.query('SELECT name, price FROM products ORDER BY name LIMIT 5');
  return { status: 200, type: 'text/html', body: page(id, products), headers: { 'x-visit': id } };
}

function page(visit: string, products: string[][]): string {
  const rows = products
    .map(([product = '', price = '']) => `<tr><td>${escape(product)}<td>${escape(price)}`)
    .join('\n');
  return `<!doctype html>
<html lang="en"><meta charset="utf-8"><title>The shop</title>
<h1>The shop</h1>
<p>You are visit number ${escape(visit)}.</p>
<table>
${rows}
</table>
`;
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}

/**
 * Inserts row after row. A row is acknowledged when PostgreSQL said so; only then its number goes to the file. A row whose
 * outcome is unknown is sent again under its number, so that all rows up to the number in the file must be in the table.
 */
async function write(): Promise<void> {
  const file = setting('ACKNOWLEDGED_FILE');
  let acknowledged = Number(await readFile(file, 'utf8').catch(() => '0'));
  log('info', `going on after row ${acknowledged}`);
  while (!ending.signal.aborted) {
    try {
      await database.query('INSERT INTO ledger (n, pod) VALUES ($1, $2) ON CONFLICT (n) DO NOTHING', [
        String(acknowledged + 1),
        hostname(),
      ]);
      acknowledged += 1;
      lastSuccess = Date.now();
      await writeFile(`${file}.new`, `${acknowledged}\n`);
      await rename(`${file}.new`, file);
      if (acknowledged % 100 === 0) log('info', `${acknowledged} rows acknowledged`);
    } catch (error) {
      log('warn', `row ${acknowledged + 1} was not acknowledged: ${String(error)}`);
      await sleep(500);
    }
    await sleep(200);
  }
  log('info', `ended after row ${acknowledged}`);
}

async function read(): Promise<void> {
  while (!ending.signal.aborted) {
    try {
      const [row] = await database.query('SELECT count(*), max(at) FROM ledger');
      if (lastSuccess === 0) log('info', `sees ${row?.[0] ?? '?'} rows in the ledger`);
      lastSuccess = Date.now();
    } catch (error) {
      log('warn', `panel without data: ${String(error)}`);
    }
    await sleep(2000);
  }
}

function setting(variable: string): string {
  const value = process.env[variable];
  if (value === undefined) throw new Error(`${variable} is not set`);
  return value;
}

for (const signal of ['SIGTERM', 'SIGINT'] as const) {
  process.on(signal, () => {
    if (ending.signal.aborted) return;
    ending.abort();
    log('info', `${signal}: ending`);
    server.close();
    server.closeIdleConnections();
    // The statement under way is answered first; nothing acknowledged may be lost on the way out.
    setTimeout(() => {
      database.close();
      process.exit(0);
    }, 400).unref();
  });
}

server.listen(Number(process.env['PORT'] ?? 8080), () => log('info', `${name} is listening`));
if (mode === 'writer') await write();
if (mode === 'reader') await read();
