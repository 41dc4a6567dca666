/** Somebody who keeps looking at the website while the database is upgraded, and remembers what was seen. */
import { request } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';

export interface Visits {
  /** Ids of the visits that the website said it had recorded. */
  acknowledged: string[];
  /** How often the page, the maintenance page, and an error was seen. */
  pages: number;
  maintenance: number;
  errors: number;
  /** When and what the first few errors were. */
  firstErrors: string[];
}

export interface Visitor {
  visits: Visits;
  stop(): Promise<void>;
}

/** Looks every 400 ms at `url` as `host`. */
export function startVisitor(url: string, host: string): Visitor {
  const visits: Visits = { acknowledged: [], pages: 0, maintenance: 0, errors: 0, firstErrors: [] };
  const ending = new AbortController();
  const done = (async () => {
    while (!ending.signal.aborted) {
      const seen = await look(url, host);
      if (seen.status === 200) {
        visits.pages += 1;
        if (seen.visit !== undefined) visits.acknowledged.push(seen.visit);
      } else if (seen.maintenance) {
        visits.maintenance += 1;
      } else {
        visits.errors += 1;
        if (visits.errors <= 5) visits.firstErrors.push(`${new Date().toISOString().slice(11, 19)} ${seen.problem}`);
      }
      await sleep(400, undefined, { signal: ending.signal }).catch(() => {});
    }
  })();
  return {
    visits,
    async stop() {
      ending.abort();
      await done;
    },
  };
}

interface Seen {
  status: number;
  maintenance: boolean;
  problem: string;
  visit?: string;
}

function look(url: string, host: string): Promise<Seen> {
  return new Promise((resolve) => {
    const fail = (error: Error) => resolve({ status: 0, maintenance: false, problem: error.message });
    const sent = request(url, { headers: { host }, timeout: 8000 }, (answer) => {
      const { 'x-visit': visit, 'x-maintenance': maintenance } = answer.headers;
      const status = answer.statusCode ?? 0;
      const seen: Seen = { status, maintenance: maintenance !== undefined, problem: `answer ${status}` };
      if (typeof visit === 'string') seen.visit = visit;
      // A page that breaks off was not seen.
      answer.on('end', () => resolve(seen)).on('error', fail);
      answer.resume();
    });
    sent.on('timeout', () => sent.destroy(new Error('no answer in 8 s'))).on('error', fail);
    sent.end();
  });
}
