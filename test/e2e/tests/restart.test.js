import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { backendOf, bodyOf, signedBy } from '../lib/backend.js';
import { connect, memberIds, reached, record, subscribe, unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { startReceiver } from '../lib/receiver.js';
import { anApp, startServer } from '../lib/server.js';
import { eventually } from '../lib/wait.js';

// A webhook that was under way when its sender died is taken up again after 30 s.
const takeOverMs = 120_000;

// pusher-js waits 15 s after a refused connection before it tries again.
const reconnectMs = 100_000;

async function startFor(t, config) {
  const apps = [anApp({ enable_user_authentication: true })];
  const server = await startServer({ apps, ...config });
  t.after(() => server.close());
  return server;
}

/** A signed-in client with a public, a private and a presence channel. */
async function populate(t, server, name, user_id) {
  const identity = { member: { user_id }, user: { id: user_id } };
  const pusher = await connect(t, server, signedBy(backendOf(server), identity));
  const names = [`news-${name}`, `private-${name}`, `presence-${name}`];
  const rooms = await Promise.all(names.map((room) => subscribe(pusher, room)));
  const personal = record(pusher.user, `user ${user_id}`);
  pusher.signin();
  await isSignedIn(pusher);
  return { pusher, rooms, presence: rooms[2].channel, personal };
}

const isSignedIn = (pusher) =>
  eventually(() => pusher.user.serverToUserChannel?.subscribed, 'the client is signed in');

/** Waits until a client is subscribed again everywhere and sees who is there. */
async function returned(client, ids) {
  await reached(client.pusher, 'connected', reconnectMs);
  for (const { events } of client.rooms) await events.event('pusher:subscription_succeeded');
  await eventually(() => memberIds(client.presence).join() === ids.join(), `members ${ids}`);
  await isSignedIn(client.pusher);
}

describe('clients come back by themselves', { concurrency: true }, () => {
  for (const [how, end] of [
    ['stopped', (server) => server.stop()],
    ['killed', (server) => server.kill()],
  ]) {
    it(`after the server was ${how} and started again`, async (t) => {
      const server = await startFor(t);
      const name = unique('room');
      const anna = await populate(t, server, name, 'anna');
      const ben = await populate(t, server, name, 'ben');
      const socketId = anna.pusher.connection.socket_id;
      await end(server);
      await server.start();
      await Promise.all([anna, ben].map((client) => returned(client, ['anna', 'ben'])));
      assert.notEqual(anna.pusher.connection.socket_id, socketId);
      const backend = backendOf(server);
      for (const { channel } of anna.rooms) await backend.trigger(channel.name, 'hello', { n: 1 });
      for (const { events } of [...anna.rooms, ...ben.rooms]) {
        assert.deepEqual(await events.event('hello'), { n: 1 });
      }
      await backend.sendToUser('ben', 'alert', { n: 2 });
      assert.deepEqual(await ben.personal.event('alert'), { n: 2 });
      const { users } = await bodyOf(backend.get({ path: `/channels/presence-${name}/users` }));
      assert.deepEqual(users.map(({ id }) => id).sort(), ['anna', 'ben']);
    });
  }

  it('and nobody is left over from before a kill', async (t) => {
    const server = await startFor(t);
    const raw = await connectRaw(t, server);
    const channel = unique('presence-room');
    const backend = backendOf(server);
    const signature = backend.authorizeChannel(raw.socketId, channel, { user_id: 'ghost' });
    await raw.subscribe(channel, signature);
    await server.kill();
    await server.start();
    assert.deepEqual(await bodyOf(backend.get({ path: `/channels/${channel}/users` })), {
      users: [],
    });
    const anna = await connect(t, server, signedBy(backend, { member: { user_id: 'anna' } }));
    const joined = await subscribe(anna, channel);
    assert.deepEqual(memberIds(joined.channel), ['anna']);
  });

  it('told by a close code that asks for it', async (t) => {
    const server = await startFor(t);
    const raw = await connectRaw(t, server);
    const ending = server.stop();
    assert.equal((await raw.ended()).code, 4200);
    assert.deepEqual(await ending, { code: 0, signal: null });
  });
});

describe('a webhook', () => {
  it('that could not be sent before a kill is sent after it', async (t) => {
    let refuse = true;
    const receiver = await startReceiver(({ path }) => (refuse && path === '/news' ? 500 : 200));
    t.after(() => receiver.close());
    const hook = (name) => ({
      url: `${receiver.url}/${name}`,
      channel_prefix: name,
      event_types: ['channel_occupied'],
    });
    const server = await startFor(t, {
      webhooks: { retry_initial: '2s' },
      apps: [anApp({ webhooks: [hook('news'), hook('marker')] })],
    });
    const raw = await connectRaw(t, server);
    const arrival = (path, status, limitMs) =>
      receiver.requests.take(
        (request) => request.path === path && request.status === status,
        `${path} answered with ${status}`,
        limitMs,
      );
    const channel = unique('news');
    await raw.subscribe(channel);
    await arrival('/news', 500);
    // Once a later one is through, the refusal has been noted, and its retry is far.
    await raw.subscribe(unique('marker'));
    await arrival('/marker', 200);
    await server.kill();
    refuse = false;
    await server.start();
    const webhook = backendOf(server).webhook(await arrival('/news', 200, takeOverMs));
    assert.ok(webhook.isValid());
    assert.deepEqual(webhook.getEvents(), [{ name: 'channel_occupied', channel }]);
  });
});

describe('a client that does not answer', { concurrency: true }, () => {
  for (const mode of ['event-loop', 'goroutine']) {
    it(`delays the end by the grace period and no more, in mode ${mode}`, async (t) => {
      const server = await startFor(t, { transport: { mode }, shutdown: { grace: '2s' } });
      const silent = await connectRaw(t, server);
      silent.socket.pause(); // it reads nothing any more, the close frame neither
      const start = Date.now();
      assert.deepEqual(await server.stop(), { code: 0, signal: null });
      const tookMs = Date.now() - start;
      assert.ok(tookMs > 1000, `the end took ${tookMs} ms`); // some of the time is for the store
    });
  }
});
