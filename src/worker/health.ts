import { createServer } from 'node:http';
import { messageOf } from '../activities/errors.ts';
import { UserError } from '../domain/exit-codes.ts';

/**
 * What a kubelet asks. `/live`: this process takes requests. `/ready`: `problem` gives none; else 503 with its words. Throws
 * UserError when `address` (`host:port`) cannot be listened on.
 */
export async function serveHealth(
  address: string,
  problem: () => Promise<string | undefined>,
): Promise<{ close(): void }> {
  const server = createServer((request, response) => {
    const answer = (code: number, text: string) => response.writeHead(code).end(`${text}\n`);
    if (request.url === '/live') {
      answer(200, 'ok');
    } else if (request.url === '/ready') {
      void problem().then((text) => answer(text === undefined ? 200 : 503, text ?? 'ok'));
    } else {
      answer(404, '/live or /ready');
    }
  });
  const [, host = '', port = ''] = /^(.*):(\d+)$/.exec(address) ?? [];
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(Number(port), host, resolve));
  } catch (error) {
    throw new UserError('configuration', `PGLEAP_HEALTH=${address} cannot be listened on: ${messageOf(error)}`);
  }
  return {
    close() {
      server.close();
      server.closeAllConnections();
    },
  };
}
