/** Where a downtime went: what was under way in it, from the workflow's history. */
import type { Session } from '../src/client/connection.ts';
import { say } from './world.ts';

interface Span {
  name: string;
  scheduled: number;
  started: number;
  closed: number;
}

/** Tells each activity that ran between the two moments: seconds after `from`, waited in its queue, under way. */
export async function tellTimeline(session: Session, workflowId: string, from: string, to: string): Promise<void> {
  const [begin, end] = [Date.parse(from), Date.parse(to)];
  const spans = (await activitiesOf(session, workflowId)).filter(({ name, scheduled, closed }) => {
    return name !== 'notify' && closed > begin && scheduled < end;
  });
  say('   after  queued    took');
  for (const { name, scheduled, started, closed } of spans) {
    const cells = [scheduled - begin, started - scheduled, closed - started];
    say(`${cells.map((ms) => `${(ms / 1000).toFixed(2).padStart(7)}s`).join('')}  ${name}`);
  }
  let [idle, busyUntil] = [0, begin];
  for (const { scheduled, closed } of spans) {
    idle += Math.max(0, scheduled - busyUntil);
    busyUntil = Math.max(busyUntil, closed);
  }
  const queued = spans.reduce((sum, { scheduled, started }) => sum + started - scheduled, 0);
  say(
    `${spans.length} activities, together ${(queued / 1000).toFixed(1)} s in the queue; ${(idle / 1000).toFixed(1)} s without any`,
  );
}

async function activitiesOf(session: Session, workflowId: string): Promise<Span[]> {
  const { events = [] } = await session.client.workflow.getHandle(workflowId).fetchHistory();
  const spans = new Map<string, Span>();
  for (const event of events ?? []) {
    const at = Number(event.eventTime?.seconds ?? 0) * 1000 + (event.eventTime?.nanos ?? 0) / 1e6;
    const { activityTaskScheduledEventAttributes: scheduled, activityTaskStartedEventAttributes: started } = event;
    const closed =
      event.activityTaskCompletedEventAttributes ??
      event.activityTaskFailedEventAttributes ??
      event.activityTaskTimedOutEventAttributes ??
      event.activityTaskCanceledEventAttributes;
    if (scheduled) {
      const name = scheduled.activityType?.name ?? '';
      spans.set(String(event.eventId), { name, scheduled: at, started: at, closed: at });
    }
    const span = spans.get(String((started ?? closed)?.scheduledEventId ?? ''));
    if (span && started) span.started = at;
    if (span && closed) span.closed = at;
  }
  return [...spans.values()];
}
