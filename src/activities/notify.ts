import { log } from '@temporalio/activity';
import { abortSignal } from './context.ts';
import { fail, messageOf } from './errors.ts';
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
        if (!response.ok) throw new Error(`it answered ${response.status}`);
      } catch (error) {
        const problem = messageOf(error).replaceAll(url, '(the URL)');
        log.warn('could not notify', { error: problem });
        throw fail('Unreachable', `PGLEAP_NOTIFY_URL could not be told: ${problem}`);
      }
    },
  };
}
