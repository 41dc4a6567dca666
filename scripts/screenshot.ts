/**
 * Pictures of a page as a person sees it, e.g. the Web UI at a gate, or a report:
 *   node scripts/screenshot.ts <url or file> <picture.png> [width] [light|dark]
 * Needs Chromium at /usr/bin/chromium, or where CHROMIUM says.
 */
import { existsSync } from 'node:fs';
import { mkdir } from 'node:fs/promises';
import path from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const [page, picture, width = '1400', scheme = 'light'] = process.argv.slice(2);
if (page === undefined || picture === undefined) {
  console.error('usage: node scripts/screenshot.ts <url or file> <picture.png> [width] [light|dark]');
  process.exit(2);
}
const browser = await chromium.launch({
  executablePath: process.env['CHROMIUM'] ?? '/usr/bin/chromium',
  // Its own sandbox does not work for root in a container; the pages are ours.
  args: ['--no-sandbox'],
});
try {
  const tab = await browser.newPage({
    viewport: { width: Number(width), height: 1000 },
    colorScheme: scheme === 'dark' ? 'dark' : 'light',
  });
  await tab.goto(existsSync(page) ? pathToFileURL(path.resolve(page)).href : page);
  // The Web UI goes on polling, so it is never idle: what matters is there after some seconds.
  await tab.waitForTimeout(existsSync(page) ? 200 : 4000);
  await mkdir(path.dirname(path.resolve(picture)), { recursive: true });
  await tab.screenshot({ path: picture, fullPage: true });
} finally {
  await browser.close();
}
