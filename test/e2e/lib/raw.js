// A bare WebSocket client, for what pusher-js hides: the frames, the headers of the
// request and the close codes.

import WebSocket from 'ws';

import { Inbox, within } from './wait.js';

/**
 * Connects and returns a client that goes when the test ends.
 *
 * @param {import('node:test').TestContext} t
 * @param {import('./server.js').Server} server
 * @param {object} options `key` chooses the app, `url` replaces the address, the rest goes
 *   to ws
 */
export function openRaw(t, server, { key = server.apps[0].key, url, ...options } = {}) {
  const scheme = server.tls ? 'wss' : 'ws';
  url ??= `${scheme}://${server.host}:${server.port}/app/${key}?protocol=7&client=e2e&version=1.0`;
  const client = new RawClient(new WebSocket(url, { perMessageDeflate: false, ...options }));
  t.after(() => client.socket.terminate());
  return client;
}

/** Connects like openRaw and waits for the socket id. */
export async function connectRaw(t, server, options) {
  const client = openRaw(t, server, options);
  const { data } = await client.event('pusher:connection_established');
  client.socketId = JSON.parse(data).socket_id;
  return client;
}

/** One WebSocket with the frames that arrived on it, parsed. */
export class RawClient {
  frames = new Inbox('frames');

  /** @param {WebSocket} socket */
  constructor(socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once('close', (code, reason) => resolve({ code, reason: String(reason) }));
    });
    socket.on('message', (text) => this.frames.push(JSON.parse(text)));
    socket.on('error', (error) => this.frames.push({ event: 'socket error', data: String(error) }));
  }

  /** Waits for the next frame of an event, about a channel if one is named. */
  event(name, channel) {
    return this.frames.take(
      (frame) => frame.event === name && (!channel || frame.channel === channel),
      `frame ${name} ${channel ?? ''}`,
    );
  }

  /** Waits for the end of the connection and returns its code and reason. */
  ended() {
    return within(this.closed, 'end of the connection');
  }

  send(event, data, channel) {
    this.socket.send(JSON.stringify({ event, data, channel }));
  }

  /** Subscribes and waits for success. */
  async subscribe(channel, signature = {}) {
    this.send('pusher:subscribe', { channel, ...signature });
    return this.event('pusher_internal:subscription_succeeded', channel);
  }

  /** Waits until the server has handled everything that was sent before. */
  async settled() {
    this.send('pusher:ping', {});
    await this.event('pusher:pong');
  }
}
