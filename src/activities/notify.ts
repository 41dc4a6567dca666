import { log } from '@temporalio/activity';
import { abortSignal } from './context.ts';
import { fail, isFailure, messageOf } from './errors.ts';
import { retryAfterMs } from './retry-after.ts';
import type { NotifyActivities } from './types.ts';

/**
 * Tells a chat room, if there is one: a JSON object that Slack, Mattermost and (as `content`) Discord show as one line, and
 * that a receiver of one's own can tell apart by `kind`. The URL is a secret: it never appears in a message.
 */
export function notifyActivities(url: string | undefined): NotifyActivities {
  return {
    async notify({ upgradeId, kind, text }) {
      if (url === undefined) return;
      const limit = AbortSignal.timeout(10_000);
      const cancelled = abortSignal();
      try {
        const response = await fetch(url, {
          method: 'POST',
          headers: { 'content-type': 'application/json' },
          body: JSON.stringify({ text, content: text, upgradeId, kind }),
          signal: cancelled ? AbortSignal.any([limit, cancelled]) : limit,
        });
        const { status, headers } = response;
        if (response.ok) return;
        const says = `PGLEAP_NOTIFY_URL could not be told: it answered ${status}`;
        if (status === 429) {
          throw fail('RateLimited', says, { retryAfterMs: retryAfterMs(headers.get('retry-after'), 5000) });
        }
        throw status < 500 ? fail('Refused', `${says}; check the address`) : fail('Unreachable', says);
      } catch (error) {
        if (cancelled?.aborted === true) throw cancelled.reason;
        const failure = isFailure(error, 'RateLimited', 'Refused', 'Unreachable')
          ? error
          : fail(
              'Unreachable',
              `PGLEAP_NOTIFY_URL could not be told: ${messageOf(error).replaceAll(url, '(the URL)')}`,
            );
        log.warn('could not notify', { error: failure.message });
        throw failure;
      }
    },
  };
}
