import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import Echo from 'laravel-echo';

import { backendOf, signedBy } from '../lib/backend.js';
import { connect, unique } from '../lib/clients.js';
import { startServer } from '../lib/server.js';
import { Inbox } from '../lib/wait.js';

let server;
let backend;
before(async () => {
  server = await startServer();
  backend = backendOf(server);
});
after(() => server?.close());

/** An Echo on a client that is signed for by the backend. */
async function echoFor(t, user_id, info = { name: user_id }) {
  const identity = { member: user_id && { user_id, user_info: info } };
  const client = await connect(t, server, signedBy(backend, identity));
  return new Echo({ broadcaster: 'pusher', key: server.apps[0].key, client });
}

/** Waits until the channel is subscribed. */
const ready = (channel) => new Promise((resolve) => channel.subscribed(resolve));

/** What a registration of a listener delivers. */
function delivered(register) {
  const inbox = new Inbox('listener');
  register((data) => inbox.push(data));
  return inbox;
}

const notification = 'Illuminate\\Notifications\\Events\\BroadcastNotificationCreated';

describe('laravel-echo', () => {
  it('listens on a public channel', async (t) => {
    const echo = await echoFor(t);
    const name = unique('orders');
    const channel = echo.channel(name);
    const shipped = delivered((listener) => channel.listen('OrderShipped', listener));
    const named = delivered((listener) => channel.listen('.order.named', listener));
    await ready(channel);
    await backend.trigger(name, 'App\\Events\\OrderShipped', { order: { id: 7 } });
    await backend.trigger(name, 'order.named', { n: 1 });
    assert.deepEqual(await shipped.take(), { order: { id: 7 } });
    assert.deepEqual(await named.take(), { n: 1 });
    assert.match(echo.socketId(), /^\d+\.\d+$/);
    assert.equal(echo.connectionStatus(), 'connected');
  });

  it('listens to everything of a channel', async (t) => {
    const echo = await echoFor(t);
    const name = unique('orders');
    const channel = echo.channel(name);
    const all = delivered((listener) => channel.listenToAll((event) => listener(event)));
    await ready(channel);
    await backend.trigger(name, 'App\\Events\\OrderShipped', {});
    await backend.trigger(name, 'order.named', {});
    assert.equal(await all.take(), 'OrderShipped');
    assert.equal(await all.take(), '.order.named');
  });

  it('leaves a channel', async (t) => {
    const echo = await echoFor(t);
    const name = unique('orders');
    const channel = echo.channel(name);
    const left = delivered((listener) => channel.listen('.left', listener));
    await ready(channel);
    echo.leave(name);
    const marker = echo.channel(unique('orders'));
    const barrier = delivered((listener) => marker.listen('.barrier', listener));
    await ready(marker);
    await backend.trigger(name, 'left', {});
    await backend.trigger(marker.name, 'barrier', {});
    await barrier.take();
    assert.deepEqual(left.all, []);
  });

  it('whispers on a private channel', async (t) => {
    const name = unique('chat');
    const [anna, ben] = [await echoFor(t), await echoFor(t)].map((echo) => echo.private(name));
    const heard = delivered((listener) => ben.listenForWhisper('typing', listener));
    await Promise.all([ready(anna), ready(ben)]);
    anna.whisper('typing', { name: 'Anna' });
    assert.deepEqual(await heard.take(), { name: 'Anna' });
  });

  it('receives notifications on a private channel', async (t) => {
    const channel = (await echoFor(t)).private(unique('App.Models.User'));
    const received = delivered((listener) => channel.notification(listener));
    await ready(channel);
    await backend.trigger(channel.name, notification, { type: 'InvoicePaid', amount: 3 });
    assert.deepEqual(await received.take(), { type: 'InvoicePaid', amount: 3 });
  });

  it('reports a refused private channel', async (t) => {
    const liar = backendOf(server, { secret: 'another-secret' });
    const client = await connect(t, server, signedBy(liar));
    const echo = new Echo({ broadcaster: 'pusher', client });
    const errors = delivered((listener) => echo.private(unique('chat')).error(listener));
    assert.equal((await errors.take()).status, 401);
  });

  it('opens an encrypted private channel', async (t) => {
    const channel = (await echoFor(t)).encryptedPrivate(unique('vault'));
    const opened = delivered((listener) => channel.listen('Opened', listener));
    await ready(channel);
    await backend.trigger(channel.name, 'App\\Events\\Opened', { code: '1234' });
    assert.deepEqual(await opened.take(), { code: '1234' });
  });

  it('joins a presence channel: here, joining, leaving and whispers', async (t) => {
    const name = unique('room');
    const anna = (await echoFor(t, 'anna')).join(name);
    const here = delivered((listener) => anna.here(listener));
    const joining = delivered((listener) => anna.joining(listener));
    const leaving = delivered((listener) => anna.leaving(listener));
    const heard = delivered((listener) => anna.listenForWhisper('typing', listener));
    assert.deepEqual(await here.take(), [{ name: 'anna' }]);

    const benEcho = await echoFor(t, 'ben');
    const ben = benEcho.join(name);
    const benHere = delivered((listener) => ben.here(listener));
    const names = (await benHere.take()).map((member) => member.name).sort();
    assert.deepEqual(names, ['anna', 'ben']);
    assert.deepEqual(await joining.take(), { name: 'ben' });
    ben.whisper('typing', { by: 'ben' });
    assert.deepEqual(await heard.take(), { by: 'ben' });
    benEcho.leave(name);
    assert.deepEqual(await leaving.take(), { name: 'ben' });
  });
});
