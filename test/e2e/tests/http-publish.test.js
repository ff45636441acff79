import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, bodyOf, signedBy, statusOf } from '../lib/backend.js';
import { connect, subscribe, unique } from '../lib/clients.js';
import { startServer } from '../lib/server.js';

let server;
let backend;
before(async () => {
  server = await startServer();
  backend = backendOf(server);
});
after(() => server?.close());

const member = { user_id: 'anna' };

/** Publishes past the checks of the server library. */
const publish = (body) => backend.post({ path: '/events', body });
const event = (fields = {}) => ({ name: 'hello', channels: ['news'], data: '{}', ...fields });

describe('publishing an event', () => {
  it('answers exactly {}', async () => {
    const response = await backend.trigger('news', 'hello', {});
    assert.equal(response.status, 200);
    assert.match(response.headers.get('content-type'), /^application\/json/);
    assert.equal(await response.text(), '{}');
  });

  it('takes one channel as well as a list', async (t) => {
    const { channel, events } = await subscribe(await connect(t, server), unique('news'));
    await publish({ name: 'hello', channel: channel.name, data: '{"n":1}' });
    assert.deepEqual(await events.event('hello'), { n: 1 });
  });

  it('answers with the attributes that were asked for', async (t) => {
    const [here, empty] = [unique('presence-room'), unique('presence-room')];
    const open = unique('news');
    for (let sockets = 0; sockets < 2; sockets++) {
      await subscribe(await connect(t, server, signedBy(backend, { member })), here);
    }
    const info = 'user_count,subscription_count';
    assert.deepEqual(await bodyOf(backend.trigger([here, empty, open], 'hello', {}, { info })), {
      channels: {
        [here]: { user_count: 1, subscription_count: 2 },
        [empty]: { user_count: 0, subscription_count: 0 },
        [open]: { subscription_count: 0 }, // it has no users
      },
    });
  });

  it('takes the largest allowed event', async (t) => {
    const { channel, events } = await subscribe(
      await connect(t, server),
      unique('news').padEnd(200, 'x'),
    );
    const name = 'e'.repeat(200);
    const data = 'x'.repeat(10 * 1024);
    await publish(event({ name, channels: [channel.name], data }));
    assert.equal(await events.event(name), data);
  });

  it('takes 100 channels', async () => {
    const channels = Array.from({ length: 100 }, (_, n) => `news-${n}`);
    assert.deepEqual(await bodyOf(publish(event({ channels }))), {});
  });

  const tooMany = Array.from({ length: 101 }, (_, n) => `news-${n}`);
  for (const [what, status, body] of [
    ['data over 10 KiB', 413, event({ data: 'x'.repeat(10 * 1024 + 1) })],
    ['more than 100 channels', 400, event({ channels: tooMany })],
    ['no channel', 400, event({ channels: [] })],
    ['no name', 400, event({ name: undefined })],
    ['a name over 200 characters', 400, event({ name: 'e'.repeat(201) })],
    ['a reserved name', 400, event({ name: 'pusher:hello' })],
    ['an internal name', 400, event({ name: 'pusher_internal:member_added' })],
    ['a channel with a space', 400, event({ channels: ['white space'] })],
    ['a channel with a slash', 400, event({ channels: ['a/b'] })],
    ['a channel over 200 characters', 400, event({ channels: ['x'.repeat(201)] })],
    ['a reserved channel', 400, event({ channels: ['#news'] })],
    ['an empty channel', 400, event({ channels: [''] })],
    ['a malformed socket id', 400, event({ socket_id: '12.34:private-x' })],
    ['a body that is no object', 400, ['hello']],
  ]) {
    it(`refuses ${what} with ${status}`, async () => {
      assert.equal(await statusOf(publish(body)), status);
    });
  }
});

describe('publishing a batch', () => {
  const batch = (...items) => items.map((item) => ({ name: 'hello', data: '{}', ...item }));

  it('delivers every event and answers exactly {}', async (t) => {
    const pusher = await connect(t, server);
    const first = await subscribe(pusher, unique('news'));
    const second = await subscribe(pusher, unique('news'));
    const response = await backend.triggerBatch([
      { channel: first.channel.name, name: 'one', data: { n: 1 } },
      { channel: second.channel.name, name: 'two', data: { n: 2 } },
      { channel: first.channel.name, name: 'three', data: 'text' },
    ]);
    assert.equal(await response.text(), '{}');
    assert.deepEqual(await first.events.event('one'), { n: 1 });
    assert.equal(await first.events.event('three'), 'text');
    assert.deepEqual(await second.events.event('two'), { n: 2 });
  });

  it('leaves out the socket that an event of it excludes', async (t) => {
    const pusher = await connect(t, server);
    const { channel, events } = await subscribe(pusher, unique('news'));
    const { socket_id } = pusher.connection;
    await backend.triggerBatch([
      { channel: channel.name, name: 'mine', data: {}, socket_id },
      { channel: channel.name, name: 'barrier', data: {} },
    ]);
    await events.event('barrier');
    assert.deepEqual(events.named('mine'), []);
  });

  it('answers with attributes in the order of the events', async (t) => {
    const name = unique('presence-room');
    await subscribe(await connect(t, server, signedBy(backend, { member })), name);
    const items = batch(
      { channel: name, info: 'user_count' },
      { channel: 'news' },
      { channel: name, info: 'subscription_count' },
    );
    assert.deepEqual(await bodyOf(backend.triggerBatch(items)), {
      batch: [{ user_count: 1 }, {}, { subscription_count: 1 }],
    });
  });

  it('takes 10 events and refuses 11 with 400', async () => {
    const items = (count) => batch(...Array.from({ length: count }, () => ({ channel: 'news' })));
    assert.deepEqual(await bodyOf(backend.triggerBatch(items(10))), {});
    assert.equal(await statusOf(backend.triggerBatch(items(11))), 400);
  });

  it('delivers nothing of a batch with a bad event', async (t) => {
    const { channel, events } = await subscribe(await connect(t, server), unique('news'));
    const items = batch({ channel: channel.name }, { channel: 'white space' });
    assert.equal(await statusOf(backend.triggerBatch(items)), 400);
    await backend.trigger(channel.name, 'barrier', {});
    await events.event('barrier');
    assert.deepEqual(events.named('hello'), []);
  });

  it('refuses data over 10 KiB with 413', async () => {
    const items = batch({ channel: 'news', data: 'x'.repeat(10 * 1024 + 1) });
    assert.equal(await statusOf(backend.triggerBatch(items)), 413);
  });
});
