// pusher-js clients, and records of what they get.

import Pusher from 'pusher-js';

import { Inbox } from './wait.js';

// The WebSocket under pusher-js in Node keeps a timer of 30 s for a connection that the
// server has closed. It must not keep the process waiting when all tests are done.
const setTimer = globalThis.setTimeout;
globalThis.setTimeout = (callback, delayMs, ...args) => {
  const timer = setTimer(callback, delayMs, ...args);
  return delayMs === 30_000 ? timer.unref() : timer;
};

let names = 0;

/** A name that no other test of this process uses. */
export const unique = (prefix) => `${prefix}-${++names}`;

/**
 * Creates a client that connects to the server and goes when the test ends.
 *
 * @param {import('node:test').TestContext} t
 * @param {import('./server.js').Server} server
 * @param {object} options of pusher-js; `key` chooses the app
 */
export function open(t, server, { key = server.apps[0].key, ...options } = {}) {
  const pusher = new Pusher(key, {
    cluster: '',
    wsHost: server.host,
    wsPort: server.port,
    wssPort: server.port,
    forceTLS: server.tls,
    enabledTransports: ['ws', 'wss'],
    ...options,
  });
  t.after(() => pusher.disconnect());
  // The client's own events, recorded from the start.
  pusher.states = new Inbox('connection states');
  pusher.connection.bind('state_change', ({ current }) => pusher.states.push(current));
  pusher.errors = new Inbox('connection errors');
  pusher.connection.bind('error', (error) => pusher.errors.push(error));
  return pusher;
}

/** Creates a client like open and waits until it is connected. */
export async function connect(t, server, options) {
  const pusher = open(t, server, options);
  await reached(pusher, 'connected');
  return pusher;
}

/** Waits until the client reaches a state that it has not been seen in yet. */
export const reached = (pusher, state, limitMs) =>
  pusher.states.take((current) => current === state, `state ${state}`, limitMs);

/** Waits for an error with a code of the protocol, sent as an event or by closing. */
export const failure = (pusher, code) =>
  pusher.errors.take((error) => errorCode(error) === code, `error ${code}`);

/** The protocol's code of an error that a client reported. */
export const errorCode = (error) => error.data?.code ?? error.error?.data?.code;

/**
 * Records the events of a channel, a user or a watchlist.
 *
 * @returns {Inbox<{event: string, data: any}>} and on it event(name), which waits for the
 *   next event of a name and returns its data
 */
export function record(emitter, name = emitter.name ?? 'events') {
  const inbox = new Inbox(name);
  emitter.bind_global((event, data) => inbox.push({ event, data }));
  inbox.event = async (wanted, limitMs) => {
    const item = await inbox.take(({ event }) => event === wanted, `event ${wanted}`, limitMs);
    return item.data;
  };
  inbox.named = (wanted) => inbox.all.filter(({ event }) => event === wanted);
  return inbox;
}

/**
 * Subscribes to a channel and waits until that has succeeded.
 *
 * @returns {Promise<{channel: import('pusher-js').Channel, events: Inbox}>}
 */
export async function subscribe(pusher, name) {
  const channel = pusher.subscribe(name);
  const events = record(channel);
  await events.event('pusher:subscription_succeeded');
  return { channel, events };
}

/** The ids in a presence channel, sorted, as its client sees them. */
export const memberIds = (channel) => {
  const ids = [];
  channel.members.each(({ id }) => ids.push(id));
  return ids.sort();
};
