import assert from 'node:assert/strict';
import http from 'node:http';
import { it } from 'node:test';

import { backendOf, bodyOf, signedBy } from '../lib/backend.js';
import { connect, failure, record, subscribe, unique } from '../lib/clients.js';
import { eventually } from '../lib/wait.js';

/** Connections, public and private channels. */
export function channelTests(at) {
  it('gives a socket id that server libraries accept', async (t) => {
    const pusher = await connect(t, at.server);
    assert.match(pusher.connection.socket_id, /^\d+\.\d+$/);
    const other = await connect(t, at.server);
    assert.notEqual(other.connection.socket_id, pusher.connection.socket_id);
  });

  it('delivers an event to all subscribers of a public channel', async (t) => {
    const name = unique('news');
    const clients = await Promise.all([connect(t, at.server), connect(t, at.server)]);
    const inboxes = await Promise.all(clients.map((pusher) => subscribe(pusher, name)));
    const data = { text: 'grüße <b>&amp;</b> \u2028 "quoted"', list: [1, 2.5, null, true] };
    assert.deepEqual(await bodyOf(backendOf(at.server).trigger(name, 'headline', data)), {});
    for (const { events } of inboxes) assert.deepEqual(await events.event('headline'), data);
  });

  it('delivers data that is no JSON as the string it is', async (t) => {
    const { channel, events } = await subscribe(await connect(t, at.server), unique('news'));
    await backendOf(at.server).trigger(channel.name, 'plain', 'just {text');
    assert.equal(await events.event('plain'), 'just {text');
  });

  it('keeps the order of events', async (t) => {
    const { channel, events } = await subscribe(await connect(t, at.server), unique('news'));
    const backend = backendOf(at.server);
    const sent = Array.from({ length: 50 }, (_, n) => n);
    for (const n of sent) await backend.trigger(channel.name, 'count', { n });
    const last = sent.at(-1);
    await events.take(({ event, data }) => event === 'count' && data.n === last, 'the last event');
    assert.deepEqual(
      events.named('count').map(({ data }) => data.n),
      sent,
    );
  });

  it('delivers each of many concurrent events once', async (t) => {
    const { channel, events } = await subscribe(await connect(t, at.server), unique('news'));
    const agent = new http.Agent({ keepAlive: true });
    t.after(() => agent.destroy());
    const backend = backendOf(at.server, { agent });
    const sent = Array.from({ length: 300 }, (_, n) => n);
    await Promise.all(sent.map((n) => backend.trigger(channel.name, 'count', { n })));
    await backend.trigger(channel.name, 'barrier', {});
    await events.event('barrier');
    const received = events.named('count').map(({ data }) => data.n);
    assert.deepEqual(
      received.sort((a, b) => a - b),
      sent,
    );
  });

  it('delivers one event to several channels', async (t) => {
    const pusher = await connect(t, at.server);
    const first = await subscribe(pusher, unique('news'));
    const second = await subscribe(pusher, unique('news'));
    await backendOf(at.server).trigger([first.channel.name, second.channel.name], 'both', { n: 1 });
    assert.deepEqual(await first.events.event('both'), { n: 1 });
    assert.deepEqual(await second.events.event('both'), { n: 1 });
  });

  it('leaves out the socket that an event excludes', async (t) => {
    const name = unique('news');
    const author = await connect(t, at.server);
    const mine = await subscribe(author, name);
    const others = await subscribe(await connect(t, at.server), name);
    const backend = backendOf(at.server);
    await backend.trigger(name, 'edited', {}, { socket_id: author.connection.socket_id });
    await others.events.event('edited');
    await backend.trigger(name, 'barrier', {});
    await mine.events.event('barrier');
    assert.deepEqual(mine.events.named('edited'), []);
  });

  it('stops delivering after an unsubscription', async (t) => {
    const pusher = await connect(t, at.server);
    const left = await subscribe(pusher, unique('news'));
    const kept = await subscribe(pusher, unique('news'));
    pusher.unsubscribe(left.channel.name);
    const again = await subscribe(pusher, unique('news')); // answered after the unsubscription
    // pusher-js forgets the channel, so what may still arrive is seen on the connection.
    const frames = record(pusher, 'all channels');
    await backendOf(at.server).trigger([left.channel.name, kept.channel.name], 'late', {});
    await kept.events.event('late');
    await backendOf(at.server).trigger(again.channel.name, 'barrier', {});
    await again.events.event('barrier');
    assert.equal(frames.named('late').length, 1);
  });

  it('bears a subscription that is cancelled and renewed before its answer', async (t) => {
    const pusher = await connect(t, at.server, signedBy(backendOf(at.server)));
    const [renewed, cancelled] = [unique('private-room'), unique('private-room')];
    const events = record(pusher.subscribe(renewed));
    pusher.unsubscribe(renewed);
    pusher.subscribe(renewed);
    pusher.subscribe(cancelled);
    pusher.unsubscribe(cancelled);
    await events.event('pusher:subscription_succeeded');
    await eventually(() => !pusher.channel(cancelled), 'the cancelled channel is left');
    await subscribe(pusher, unique('news')); // answered after the unsubscription
    const frames = record(pusher, 'all channels');
    const backend = backendOf(at.server);
    await backend.trigger([cancelled, renewed], 'hello', {});
    await backend.trigger(renewed, 'barrier', {});
    await events.event('barrier');
    assert.equal(events.named('hello').length, 1);
    assert.equal(frames.named('hello').length, 1);
  });

  it('authorizes a private channel', async (t) => {
    const backend = backendOf(at.server);
    const pusher = await connect(t, at.server, signedBy(backend));
    const { channel, events } = await subscribe(pusher, unique('private-room'));
    await backend.trigger(channel.name, 'hello', { n: 1 });
    assert.deepEqual(await events.event('hello'), { n: 1 });
  });

  it('authorizes a private channel whose signature covers channel_data', async (t) => {
    const backend = backendOf(at.server);
    const member = { user_id: 'anna', user_info: { name: 'Anna' } };
    const pusher = await connect(t, at.server, signedBy(backend, { member }));
    const { channel, events } = await subscribe(pusher, unique('private-room'));
    await backend.trigger(channel.name, 'hello', { n: 1 });
    assert.deepEqual(await events.event('hello'), { n: 1 });
  });

  it('refuses a wrong signature and keeps the connection', async (t) => {
    const liar = backendOf(at.server, { secret: 'another-secret' });
    const pusher = await connect(t, at.server, signedBy(liar));
    const refused = record(pusher.subscribe(unique('private-room')));
    const { type, status, error } = await refused.event('pusher:subscription_error');
    assert.deepEqual({ type, status }, { type: 'AuthError', status: 401 });
    assert.equal(typeof error, 'string');
    await failure(pusher, 4009);
    const open = await subscribe(pusher, unique('news'));
    await backendOf(at.server).trigger([refused.name, open.channel.name], 'secret', {});
    await open.events.event('secret');
    assert.equal(pusher.connection.state, 'connected');
    assert.deepEqual(refused.named('secret'), []);
  });

  it('refuses a signature for another channel or socket', async (t) => {
    const backend = backendOf(at.server);
    const customHandler = ({ channelName, socketId }, callback) =>
      callback(
        null,
        channelName.includes('swapped')
          ? backend.authorizeChannel(socketId, 'private-mine')
          : backend.authorizeChannel('1.1', channelName),
      );
    const pusher = await connect(t, at.server, { channelAuthorization: { customHandler } });
    for (const name of [unique('private-swapped'), unique('private-stolen')]) {
      const { status } = await record(pusher.subscribe(name)).event('pusher:subscription_error');
      assert.equal(status, 401);
    }
  });

  it('counts the subscribers of a channel', async (t) => {
    const name = unique('news');
    const first = await subscribe(await connect(t, at.server), name);
    assert.deepEqual(await first.events.event('pusher:subscription_count'), {
      subscription_count: 1,
    });
    const leaving = await connect(t, at.server);
    await subscribe(leaving, name);
    await first.events.take(({ data }) => data?.subscription_count === 2, 'count 2');
    assert.equal(first.channel.subscriptionCount, 2);
    leaving.disconnect();
    await first.events.take(({ data }) => data?.subscription_count === 1, 'count 1');
    assert.equal(first.channel.subscriptionCount, 1);
  });
}
