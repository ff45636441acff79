import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, signedBy } from '../lib/backend.js';
import { connect, subscribe, unique } from '../lib/clients.js';
import { startReceiver } from '../lib/receiver.js';
import { anApp, startServer } from '../lib/server.js';
import { eventually, Inbox } from '../lib/wait.js';

let server;
let backend;
let receiver;
let failures = 0; // how many of the next requests to /flaky fail

/** The events of every accepted request by the path that it came on. */
const accepted = {
  '/all': new Inbox('/all'),
  '/flaky': new Inbox('/flaky'),
  '/misses': new Inbox('/misses'),
};

/** Keeps the events of a request that the server library believes. */
function accept(request) {
  if (request.path === '/flaky' && failures-- > 0) return 500;
  for (const event of verified(request)) accepted[request.path].push(event);
  return 200;
}

/** The events of a request, or one that says what is wrong with it. */
function verified({ method, headers, rawBody }) {
  const webhook = backend.webhook({ headers, rawBody });
  const isRecent = () => Math.abs(webhook.getTime() - Date.now()) < 60_000;
  if (method === 'POST' && webhook.isValid() && isRecent()) return webhook.getEvents();
  return [{ name: 'refused by the library', method, headers, rawBody }];
}

const hook = (path, options) => ({ url: receiver.url + path, ...options });

before(async () => {
  receiver = await startReceiver(accept);
  server = await startServer({
    webhooks: { batch_interval: '50ms', leave_debounce: '1s', retry_initial: '200ms' },
    apps: [
      anApp({
        enable_user_authentication: true,
        webhooks: [
          hook('/all'),
          hook('/flaky', { channel_prefix: 'flaky-', headers: { 'X-Shop': 'berlin' } }),
          hook('/misses', { event_types: ['cache_miss'] }),
        ],
      }),
    ],
  });
  backend = backendOf(server);
});
after(async () => {
  await server?.close();
  await receiver?.close();
});

const has = (name, channel) => (event) => event.name === name && event.channel === channel;
const arrival = (name, channel, path = '/all') =>
  accepted[path].take(has(name, channel), `${name} of ${channel}`);
const arrived = (name, channel, path = '/all') => accepted[path].all.filter(has(name, channel));

const join = async (t, name, user_id, at = server) => {
  const identity = { member: user_id && { user_id } };
  const pusher = await connect(t, at, signedBy(backend, identity));
  return { pusher, ...(await subscribe(pusher, name)) };
};

describe('a webhook', () => {
  it('tells when a channel is occupied and vacated, once each', async (t) => {
    const channel = unique('news');
    const [first, second] = [await join(t, channel), await join(t, channel)];
    assert.deepEqual(await arrival('channel_occupied', channel), {
      name: 'channel_occupied',
      channel,
    });
    first.pusher.disconnect();
    second.pusher.unsubscribe(channel);
    assert.deepEqual(await arrival('channel_vacated', channel), {
      name: 'channel_vacated',
      channel,
    });
    assert.equal(arrived('channel_occupied', channel).length, 1);
    assert.equal(arrived('channel_vacated', channel).length, 1);
  });

  it('tells when members come and go, once for each user', async (t) => {
    const channel = unique('presence-room');
    const sockets = [await join(t, channel, 'anna'), await join(t, channel, 'anna')];
    const expected = (name) => ({ name, channel, user_id: 'anna' });
    assert.deepEqual(await arrival('member_added', channel), expected('member_added'));
    for (const { pusher } of sockets) pusher.disconnect();
    assert.deepEqual(await arrival('member_removed', channel), expected('member_removed'));
    await arrival('channel_vacated', channel);
    assert.equal(arrived('member_added', channel).length, 1);
    assert.equal(arrived('member_removed', channel).length, 1);
  });

  it('tells of client events, with their sender', async (t) => {
    const room = unique('presence-room');
    const anna = await join(t, room, 'anna');
    anna.channel.trigger('client-said', { text: 'ü' });
    const { data, ...rest } = await arrival('client_event', room);
    const socket_id = anna.pusher.connection.socket_id;
    const common = { name: 'client_event', event: 'client-said', socket_id };
    assert.deepEqual(rest, { ...common, channel: room, user_id: 'anna' });
    assert.deepEqual(JSON.parse(data), { text: 'ü' });

    const chat = unique('private-chat');
    const { channel, pusher } = await join(t, chat);
    channel.trigger('client-said', {});
    const unnamed = await arrival('client_event', chat);
    assert.equal(unnamed.socket_id, pusher.connection.socket_id);
    assert.ok(!('user_id' in unnamed), 'a private channel knows no users');
  });

  it('tells when a cache channel has nothing to give', async (t) => {
    const channel = unique('cache-state');
    await join(t, channel);
    assert.deepEqual(await arrival('cache_miss', channel), { name: 'cache_miss', channel });
  });

  it('tells how many subscribe', async (t) => {
    const channel = unique('news');
    await join(t, channel);
    await join(t, channel);
    const name = 'subscription_count';
    const isTwo = (event) => has(name, channel)(event) && event.subscription_count === 2;
    const event = await accepted['/all'].take(isTwo, 'a count of 2');
    assert.deepEqual(event, { name, channel, subscription_count: 2 });
  });

  it('tells nothing of a client that leaves and comes right back', async (t) => {
    // Of its own, with time enough to come back while the machine is busy.
    const slow = await startServer({
      webhooks: { leave_debounce: '10s' },
      apps: [anApp({ webhooks: [hook('/all')] })],
    });
    t.after(() => slow.close());
    const channel = unique('presence-room');
    const leaving = await join(t, channel, 'anna', slow);
    await arrival('member_added', channel);
    leaving.pusher.disconnect();
    await join(t, channel, 'anna', slow);
    const other = await join(t, unique('presence-room'), 'ben', slow);
    other.pusher.disconnect();
    // What began later has been told, so what began earlier would have been.
    await arrival('channel_vacated', other.channel.name);
    for (const name of ['member_removed', 'channel_vacated']) {
      assert.deepEqual(arrived(name, channel), []);
    }
    for (const name of ['member_added', 'channel_occupied']) {
      assert.equal(arrived(name, channel).length, 1);
    }
  });

  it('tells nothing of the channels of users', async (t) => {
    const user = { id: unique('user') };
    const pusher = await connect(t, server, signedBy(backend, { user }));
    pusher.signin();
    await eventually(() => pusher.user.serverToUserChannel?.subscribed, 'signed in');
    const marker = await join(t, unique('news'));
    await arrival('channel_occupied', marker.channel.name);
    assert.deepEqual(
      accepted['/all'].all.filter(({ channel }) => channel.startsWith('#')),
      [],
    );
  });

  it('is sent again when it was not accepted', async (t) => {
    const channel = unique('flaky-news');
    failures = 2;
    await join(t, channel);
    const name = 'channel_occupied';
    await arrival(name, channel, '/flaky');
    const tries = receiver.requests.all.filter(
      ({ path, rawBody }) => path === '/flaky' && rawBody.includes(`"${name}"`),
    );
    assert.deepEqual(
      tries.map(({ status }) => status),
      [500, 500, 200],
    );
    for (const { headers } of tries) assert.equal(headers['x-shop'], 'berlin');
    for (const request of tries) assert.ok(verified(request).some(has(name, channel)));
    assert.equal(arrived(name, channel, '/flaky').length, 1);
  });

  it('is only sent for the channels and events of its filter', async (t) => {
    const channel = unique('cache-state');
    await join(t, channel);
    await arrival('channel_occupied', channel);
    await arrival('cache_miss', channel, '/misses');
    const marker = unique('flaky-news');
    await join(t, marker);
    await arrival('channel_occupied', marker, '/flaky');
    assert.ok(accepted['/misses'].all.every(({ name }) => name === 'cache_miss'));
    assert.ok(accepted['/flaky'].all.every((event) => event.channel.startsWith('flaky-')));
  });
});
