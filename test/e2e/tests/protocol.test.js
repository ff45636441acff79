// What is on the wire, where pusher-js would forgive.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, signedBy } from '../lib/backend.js';
import { connect, record, subscribe, unique } from '../lib/clients.js';
import { connectRaw, openRaw } from '../lib/raw.js';
import { anApp, startServer } from '../lib/server.js';

const app = anApp({ max_presence_members_per_channel: 2 });
const mute = anApp({ id: 'mute', key: 'mute-key', enable_client_messages: false });

let server;
before(async () => {
  server = await startServer({ channels: { activity_timeout: '90s' }, apps: [app, mute] });
});
after(() => server?.close());

describe('the version of the protocol', () => {
  const urlOf = ({ host, port }, query) => `ws://${host}:${port}/app/${app.key}${query}`;

  it('does not matter', async (t) => {
    for (const query of ['', '?protocol=5', '?protocol=7&flash=false', '?protocol=99']) {
      await connectRaw(t, server, { url: urlOf(server, query) });
    }
  });

  it('is checked when the configuration asks for it', async (t) => {
    const strict = await startServer({ channels: { strict_protocol: true } });
    t.after(() => strict.close());
    const connectWith = (query) => openRaw(t, strict, { url: urlOf(strict, query) });
    for (const [query, code] of [
      ['', 4008],
      ['?protocol=seven', 4006],
      ['?protocol=99', 4007],
    ]) {
      assert.equal((await connectWith(query).ended()).code, code, query);
    }
    await connectWith('?protocol=7').event('pusher:connection_established');
  });
});

describe('frames of the server', () => {
  it('establish the connection with a string of JSON', async (t) => {
    const frame = await openRaw(t, server).frames.take();
    assert.equal(frame.event, 'pusher:connection_established');
    assert.equal(typeof frame.data, 'string');
    const { socket_id, activity_timeout } = JSON.parse(frame.data);
    assert.match(socket_id, /^\d+\.\d+$/);
    assert.equal(activity_timeout, 90);
  });

  it('carry published data byte for byte', async (t) => {
    const raw = await connectRaw(t, server);
    const channel = unique('news');
    assert.equal((await raw.subscribe(channel)).data, '{}');
    const data = '{"html": "<b>&\u2028\\u00e9é\\/</b>",  "n": 1.0}';
    await backendOf(server).trigger(channel, 'hello', data);
    const frame = await raw.event('hello');
    assert.deepEqual(frame, { event: 'hello', channel, data });
  });

  it('carry presence data as strings of JSON', async (t) => {
    const channel = unique('presence-room');
    const join = async (member) => {
      const raw = await connectRaw(t, server);
      const signature = backendOf(server).authorizeChannel(raw.socketId, channel, member);
      return [raw, await raw.subscribe(channel, signature)];
    };
    const [first] = await join({ user_id: 'anna', user_info: { n: 1 } });
    const [second, { data }] = await join({ user_id: 7 });
    const { count, ids, hash } = JSON.parse(data).presence;
    assert.equal(count, 2);
    assert.deepEqual(ids.sort(), ['7', 'anna']);
    assert.deepEqual(hash.anna, { n: 1 });
    assert.equal(hash['7'] ?? null, null);
    const added = JSON.parse((await first.event('pusher_internal:member_added', channel)).data);
    assert.equal(added.user_id, '7');
    second.socket.close();
    const removed = await first.event('pusher_internal:member_removed', channel);
    assert.deepEqual(JSON.parse(removed.data), { user_id: '7' });
  });

  it('carry client events in the form that was sent', async (t) => {
    const channel = unique('presence-room');
    const join = async (user_id) => {
      const raw = await connectRaw(t, server);
      await raw.subscribe(
        channel,
        backendOf(server).authorizeChannel(raw.socketId, channel, { user_id }),
      );
      return raw;
    };
    const [anna, ben] = [await join('anna'), await join('ben')];
    for (const data of [{ n: 1 }, '{"n":1}']) {
      anna.send('client-said', data, channel);
      const frame = await ben.event('client-said');
      assert.deepEqual(frame, { event: 'client-said', channel, data, user_id: 'anna' });
    }
  });
});

describe('messages of clients', () => {
  it('may be sent twice: the second subscription succeeds and changes nothing', async (t) => {
    const channel = unique('presence-room');
    const watcher = await connect(
      t,
      server,
      signedBy(backendOf(server), { member: { user_id: 'watcher' } }),
    );
    const { events } = await subscribe(watcher, channel);
    const raw = await connectRaw(t, server);
    const signature = backendOf(server).authorizeChannel(raw.socketId, channel, { user_id: 'a' });
    await raw.subscribe(channel, signature);
    await raw.subscribe(channel, signature);
    raw.send('pusher:unsubscribe', { channel });
    raw.send('pusher:unsubscribe', { channel });
    await events.event('pusher:member_removed');
    await raw.settled();
    assert.equal(events.named('pusher:member_added').length, 1);
    assert.equal(events.named('pusher:member_removed').length, 1);
  });

  it('may carry their data as a string', async (t) => {
    const raw = await connectRaw(t, server);
    const channel = unique('news');
    raw.send('pusher:subscribe', JSON.stringify({ channel }));
    await raw.event('pusher_internal:subscription_succeeded', channel);
  });

  it('are ignored when unknown and refused when broken, and the connection stays', async (t) => {
    const raw = await connectRaw(t, server);
    raw.send('pusher:no_such_event', {});
    raw.send('pusher:unsubscribe', { channel: 'never-subscribed' });
    await raw.settled();
    assert.equal(raw.frames.all.filter(({ event }) => event === 'pusher:error').length, 0);
    raw.socket.send('{"event": ');
    await raw.event('pusher:error');
    await raw.settled();
  });

  it('may come in pieces', async (t) => {
    const raw = await connectRaw(t, server);
    const channel = unique('news');
    const text = JSON.stringify({ event: 'pusher:subscribe', data: { channel } });
    for (let at = 0; at < text.length; at += 10) {
      raw.socket.send(text.slice(at, at + 10), { fin: at + 10 >= text.length });
      raw.socket.ping(); // control frames may come in between
    }
    await raw.event('pusher_internal:subscription_succeeded', channel);
  });

  it('end the connection when they are over the largest frame', async (t) => {
    const raw = await connectRaw(t, server);
    raw.send('pusher:no_such_event', 'x'.repeat(64 * 1024));
    assert.equal((await raw.ended()).code, 1009);
  });

  it('may be WebSocket pings', async (t) => {
    const raw = await connectRaw(t, server);
    const answer = new Promise((resolve) => raw.socket.once('pong', (data) => resolve(data)));
    raw.socket.ping('are you there');
    assert.equal(String(await answer), 'are you there');
  });

  for (const channel of ['', 'white space', 'slash/', 'ümlaut', '#private', 'x'.repeat(201)]) {
    it(`may not name a channel ${JSON.stringify(channel.slice(0, 20))}`, async (t) => {
      const raw = await connectRaw(t, server);
      raw.send('pusher:subscribe', { channel });
      await raw.event('pusher:error');
      await raw.settled();
      const succeeded = raw.frames.all.filter(({ event }) => event.includes('succeeded'));
      assert.deepEqual(succeeded, []);
    });
  }

  it('may name a channel with every character of the rule', async (t) => {
    const raw = await connectRaw(t, server);
    await raw.subscribe(unique('aZ09_-=@,.;'));
  });

  it('may not be client events where the app forbids them', async (t) => {
    const raw = await connectRaw(t, server, { key: mute.key });
    const channel = unique('private-room');
    const backend = backendOf(server, { app: mute });
    await raw.subscribe(channel, backend.authorizeChannel(raw.socketId, channel));
    raw.send('client-said', {}, channel);
    assert.equal((await raw.event('pusher:error')).data.code, 4301);
    await raw.settled();
  });
});

describe('limits of presence channels', () => {
  const joinAs = async (t, channel, member) => {
    const pusher = await connect(t, server, signedBy(backendOf(server), { member }));
    return record(pusher.subscribe(channel));
  };

  it('refuse a member too many, but not a second socket of a member', async (t) => {
    const channel = unique('presence-full');
    for (const user_id of ['anna', 'ben', 'anna']) {
      const events = await joinAs(t, channel, { user_id });
      await events.event('pusher:subscription_succeeded');
    }
    const refused = await joinAs(t, channel, { user_id: 'carl' });
    const { type, status } = await refused.event('pusher:subscription_error');
    assert.deepEqual({ type, status }, { type: 'LimitReached', status: 4100 });
  });

  it('refuse channel_data over 1 KiB', async (t) => {
    const member = { user_id: 'anna', user_info: { text: 'x'.repeat(1024) } };
    const refused = await joinAs(t, unique('presence-room'), member);
    const { type, status } = await refused.event('pusher:subscription_error');
    assert.deepEqual({ type, status }, { type: 'LimitReached', status: 4301 });
  });
});
