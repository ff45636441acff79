import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, signedBy, statusOf } from '../lib/backend.js';
import { connect, failure, open, reached, subscribe, unique } from '../lib/clients.js';
import { connectRaw, openRaw } from '../lib/raw.js';
import { anApp, startServer } from '../lib/server.js';
import { eventually } from '../lib/wait.js';

const apps = {
  plain: anApp(),
  disabled: anApp({ id: 'disabled', key: 'disabled-key', enabled: false }),
  small: anApp({ id: 'small', key: 'small-key', max_connections: 2 }),
  guarded: anApp({
    id: 'guarded',
    key: 'guarded-key',
    allowed_origins: ['https://shop.example.com', '*.example.org'],
  }),
  personal: anApp({ id: 'personal', key: 'personal-key', enable_user_authentication: true }),
};

let server;
before(async () => {
  server = await startServer({
    channels: { user_authentication_timeout: '2s' },
    apps: Object.values(apps),
  });
});
after(() => server?.close());

/** Expects an error event and then the end of the connection, both with the code. */
async function assertClosed(raw, code) {
  const { data } = await raw.event('pusher:error');
  assert.equal(data.code, code);
  assert.equal(typeof data.message, 'string');
  assert.equal((await raw.ended()).code, code);
}

describe('an app', () => {
  it('that is unknown is refused with 4001, for good', async (t) => {
    const pusher = open(t, server, { key: 'no-such-key' });
    await failure(pusher, 4001);
    await reached(pusher, 'disconnected');
    await assertClosed(openRaw(t, server, { key: 'no-such-key' }), 4001);
  });

  it('that is disabled is refused with 4003', async (t) => {
    const pusher = open(t, server, { key: apps.disabled.key });
    await failure(pusher, 4003);
    await reached(pusher, 'disconnected');
    await assertClosed(openRaw(t, server, { key: apps.disabled.key }), 4003);
    const publication = backendOf(server, { app: apps.disabled }).trigger('news', 'hello', {});
    assert.equal(await statusOf(publication), 403);
  });

  it('over its quota of connections refuses with 4004 until one has gone', async (t) => {
    const first = await connectRaw(t, server, { key: apps.small.key });
    await connectRaw(t, server, { key: apps.small.key });
    await assertClosed(openRaw(t, server, { key: apps.small.key }), 4004);
    const pusher = open(t, server, { key: apps.small.key });
    await failure(pusher, 4004);
    await reached(pusher, 'disconnected');
    first.socket.close();
    await eventually(async () => {
      const next = openRaw(t, server, { key: apps.small.key });
      const { event } = await next.frames.take();
      return event === 'pusher:connection_established';
    }, 'a connection is admitted again');
  });

  it('shares nothing with another app', async (t) => {
    const name = unique('news');
    const mine = await subscribe(await connect(t, server), name);
    const theirs = await subscribe(await connect(t, server, { key: apps.small.key }), name);
    await backendOf(server).trigger(name, 'hello', {});
    await mine.events.event('hello');
    await backendOf(server, { app: apps.small }).trigger(name, 'barrier', {});
    await theirs.events.event('barrier');
    assert.deepEqual(theirs.events.named('hello'), []);
  });
});

describe('the origin', () => {
  const connectFrom = (t, origin) =>
    openRaw(t, server, { key: apps.guarded.key, ...(origin && { origin }) });

  for (const origin of [
    'https://shop.example.com',
    'https://SHOP.example.com',
    'http://example.org',
    'https://deep.below.example.org',
  ]) {
    it(`${origin} is allowed`, async (t) => {
      await connectFrom(t, origin).event('pusher:connection_established');
    });
  }

  for (const origin of [
    'https://evil.example.net',
    'http://shop.example.com',
    'https://shop.example.com:8443',
    'https://shop.example.com.evil.net',
    'https://evilexample.org',
    undefined,
  ]) {
    it(`${origin ?? 'that is missing'} is refused with 4009`, async (t) => {
      await assertClosed(connectFrom(t, origin), 4009);
    });
  }

  it('does not matter to an app without a list', async (t) => {
    const raw = openRaw(t, server, { origin: 'https://anywhere.example' });
    await raw.event('pusher:connection_established');
  });
});

describe('an app that asks for sign-in', { concurrency: true }, () => {
  const key = apps.personal.key;

  it('ends a connection that does not identify itself', async (t) => {
    await assertClosed(openRaw(t, server, { key }), 4009);
  });

  it('keeps connections that signed in or subscribed with a signature', async (t) => {
    // Of its own, with time enough to sign in while the machine is busy.
    const slow = await startServer({
      channels: { user_authentication_timeout: '10s' },
      apps: [apps.personal],
    });
    t.after(() => slow.close());
    const backend = backendOf(slow);
    const user = { id: unique('user') };
    const signedIn = await connect(t, slow, signedBy(backend, { user }));
    signedIn.signin();
    await signedIn.user.signinDonePromise;
    const subscribed = await connect(t, slow, signedBy(backend));
    await subscribe(subscribed, unique('private-room'));
    // It connected after both, so their time is over when its time is.
    await assertClosed(openRaw(t, slow), 4009);
    for (const pusher of [signedIn, subscribed]) {
      await subscribe(pusher, unique('news'));
      assert.equal(pusher.connection.state, 'connected');
      assert.deepEqual(pusher.errors.all, []);
    }
  });
});

describe('a path prefix', () => {
  it('stands in front of both protocols', async (t) => {
    const prefixed = await startServer({ channels: { path_prefix: '/realtime' } });
    t.after(() => prefixed.close());
    const pusher = await connect(t, prefixed, { wsPath: '/realtime' });
    const { channel, events } = await subscribe(pusher, unique('news'));
    // The library signs paths without the prefix, which its host can hold.
    const host = `${prefixed.host}:${prefixed.port}/realtime`;
    await backendOf(prefixed, { host, port: undefined }).trigger(channel.name, 'hello', {});
    await events.event('hello');
    assert.equal(await statusOf(backendOf(prefixed).trigger(channel.name, 'hello', {})), 404);
  });
});
