/**
 * Runs inside the node's network namespace, started by network.ts: opens TCP connections to pods and hands the
 * connected sockets to the parent over the IPC channel, so that no byte passes through here.
 */
import { connect } from 'node:net';

export interface ConnectRequest {
  id: number;
  ip: string;
  port: number;
}

export interface ConnectReply {
  id: number;
  /** Set when there is no socket with this reply. */
  error?: { message: string; code?: string };
}

function serve({ id, ip, port }: ConnectRequest): void {
  const socket = connect({ host: ip, port, noDelay: true });
  // Not one byte may be read on this side: it would be lost to the parent.
  socket.pause();
  const fail = (error: NodeJS.ErrnoException): void => {
    const reply: ConnectReply = { id, error: { message: error.message, ...(error.code && { code: error.code }) } };
    process.send?.(reply);
  };
  socket.once('error', fail);
  socket.once('connect', () => {
    socket.off('error', fail);
    socket.on('error', () => socket.destroy());
    process.send?.({ id } satisfies ConnectReply, socket);
  });
}

if (process.send !== undefined) {
  process.on('message', (request: ConnectRequest) => serve(request));
  process.on('disconnect', () => process.exit(0));
}
