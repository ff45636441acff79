import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, bodyOf, signedBy } from '../lib/backend.js';
import { connect, failure, memberIds, reached, record, subscribe, unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { anApp, startServer } from '../lib/server.js';

const withUsers = anApp({ enable_user_authentication: true, enable_watchlist_events: true });
const withoutUsers = anApp({ id: 'plain', key: 'plain-key' });

let server;
before(async () => {
  server = await startServer({
    channels: { user_authentication_timeout: '30s' },
    apps: [withUsers, withoutUsers],
  });
});
after(() => server?.close());

/** Connects and signs in; events are those sent to the user, watched those of others. */
async function signIn(t, id, { user_info, watchlist } = {}) {
  const user = { id, user_info, watchlist };
  const pusher = await connect(t, server, signedBy(backendOf(server), { user }));
  const events = record(pusher.user, `user ${id}`);
  const watched = record(pusher.user.watchlist, `watchlist of ${id}`);
  pusher.signin();
  await pusher.user.signinDonePromise;
  assert.equal(pusher.user.user_data?.id, id, 'signed in');
  // Its channel is subscribed once the server has answered for a later one.
  await subscribe(pusher, unique('signed-in'));
  return { pusher, events, watched };
}

describe('sign-in', () => {
  it('keeps what the backend says of the user', async (t) => {
    const id = unique('user');
    const { pusher } = await signIn(t, id, { user_info: { name: 'Änna <a>' } });
    assert.deepEqual(pusher.user.user_data, { id, user_info: { name: 'Änna <a>' } });
  });

  it('is refused with a wrong signature', async (t) => {
    const liar = backendOf(server, { secret: 'another-secret' });
    const pusher = await connect(t, server, signedBy(liar, { user: { id: unique('user') } }));
    pusher.signin();
    await failure(pusher, 4009);
    await reached(pusher, 'disconnected');
  });

  it('is refused by an app without users', async (t) => {
    const backend = backendOf(server, { app: withoutUsers });
    const options = signedBy(backend, { user: { id: unique('user') } });
    const pusher = await connect(t, server, { key: withoutUsers.key, ...options });
    pusher.signin();
    await failure(pusher, 4009);
    await reached(pusher, 'disconnected');
  });

  it('is harmless twice and refused as another user', async (t) => {
    const backend = backendOf(server);
    const raw = await connectRaw(t, server);
    const id = unique('user');
    for (let n = 0; n < 2; n++) {
      raw.send('pusher:signin', backend.authenticateUser(raw.socketId, { id }));
      const { data } = await raw.event('pusher:signin_success');
      const parsed = typeof data === 'string' ? JSON.parse(data) : data;
      assert.equal(JSON.parse(parsed.user_data).id, id);
    }
    raw.send('pusher:signin', backend.authenticateUser(raw.socketId, { id: unique('user') }));
    assert.equal((await raw.event('pusher:error')).data.code, 4009);
  });
});

describe('events to a user', () => {
  it('reach every socket of that user and nobody else', async (t) => {
    const [anna, ben] = [unique('anna'), unique('ben')];
    const sockets = [await signIn(t, anna), await signIn(t, anna)];
    const other = await signIn(t, ben);
    const backend = backendOf(server);
    assert.deepEqual(await bodyOf(backend.sendToUser(anna, 'alert', { text: 'ü' })), {});
    for (const { events } of sockets) assert.deepEqual(await events.event('alert'), { text: 'ü' });
    await backend.sendToUser(ben, 'barrier', {});
    await other.events.event('barrier');
    assert.deepEqual(other.events.named('alert'), []);
  });

  it('use a channel that is in no list', async (t) => {
    const { events, pusher } = await signIn(t, `${unique('anna')}@example.com`);
    const backend = backendOf(server);
    const { channels } = await bodyOf(backend.get({ path: '/channels' }));
    assert.deepEqual(
      Object.keys(channels).filter((name) => name.startsWith('#')),
      [],
    );
    await backend.sendToUser(pusher.user.user_data.id, 'alert', {});
    await events.event('alert');
    await backend.terminateUserConnections(pusher.user.user_data.id);
    await failure(pusher, 4009);
  });

  it('can only be subscribed to by that user', async (t) => {
    const id = unique('anna');
    const anna = await signIn(t, id);
    const stranger = await connectRaw(t, server);
    const channel = `#server-to-user-${id}`;
    stranger.send('pusher:subscribe', { channel });
    assert.equal((await stranger.event('pusher:error')).channel, channel);
    await backendOf(server).sendToUser(id, 'alert', {});
    await anna.events.event('alert');
    await stranger.settled();
    assert.deepEqual(
      stranger.frames.all.filter(({ event }) => event === 'alert'),
      [],
    );
  });
});

describe('terminating the connections of a user', () => {
  it('ends all of them and no other', async (t) => {
    const [anna, ben] = [unique('anna'), unique('ben')];
    const sockets = [await signIn(t, anna), await signIn(t, anna)];
    const other = await signIn(t, ben);
    const backend = backendOf(server);
    assert.deepEqual(await bodyOf(backend.terminateUserConnections(anna)), {});
    for (const { pusher } of sockets) {
      await failure(pusher, 4009);
      await reached(pusher, 'disconnected');
    }
    await backend.sendToUser(ben, 'barrier', {});
    await other.events.event('barrier');
    assert.equal(other.pusher.connection.state, 'connected');
    assert.deepEqual(other.pusher.errors.all, []);
  });

  it('accepts a user who is not there', async () => {
    assert.deepEqual(await bodyOf(backendOf(server).terminateUserConnections(unique('user'))), {});
  });
});

describe('the watchlist', () => {
  const has =
    (id) =>
    ({ data }) =>
      data.user_ids.includes(id);

  it('says who is online and offline at sign-in', async (t) => {
    const [here, away] = [unique('here'), unique('away')];
    await signIn(t, here);
    const { watched } = await signIn(t, unique('watcher'), { watchlist: [here, away] });
    assert.deepEqual((await watched.event('online')).user_ids, [here]);
    assert.deepEqual((await watched.event('offline')).user_ids, [away]);
  });

  it('follows the first and the last socket of a user', async (t) => {
    const ben = unique('ben');
    const { watched } = await signIn(t, unique('watcher'), { watchlist: [ben] });
    await watched.take((item) => item.event === 'offline' && has(ben)(item), 'offline');
    const phone = await signIn(t, ben);
    await watched.take((item) => item.event === 'online' && has(ben)(item), 'online');
    const laptop = await signIn(t, ben);
    phone.pusher.disconnect();
    laptop.pusher.disconnect();
    await watched.take((item) => item.event === 'offline' && has(ben)(item), 'offline again');
    await signIn(t, ben);
    await watched.take((item) => item.event === 'online' && has(ben)(item), 'online again');
    assert.deepEqual(
      watched.all.map(({ event }) => event),
      ['offline', 'online', 'offline', 'online'],
    );
  });

  it('is cut at 100 users with an error', async (t) => {
    const first = unique('first');
    await signIn(t, first);
    const watchlist = [first, ...Array.from({ length: 100 }, () => unique('nobody'))];
    const { pusher, watched } = await signIn(t, unique('watcher'), { watchlist });
    await failure(pusher, 4302);
    assert.deepEqual((await watched.event('online')).user_ids, [first]);
    assert.equal((await watched.event('offline')).user_ids.length, 99);
    assert.equal(pusher.connection.state, 'connected');
  });
});

describe('presence of a signed-in user', () => {
  it('needs no channel_data', async (t) => {
    const name = unique('presence-room');
    const anna = await signIn(t, unique('anna'), { user_info: { name: 'Anna' } });
    const { id } = anna.pusher.user.user_data;
    const { channel, events } = await subscribe(anna.pusher, name);
    assert.deepEqual(channel.members.me, { id, info: { name: 'Anna' } });
    const ben = await signIn(t, unique('ben'), { user_info: { name: 'Ben' } });
    const joined = await subscribe(ben.pusher, name);
    assert.equal((await events.event('pusher:member_added')).info.name, 'Ben');
    assert.deepEqual(memberIds(joined.channel), [id, ben.pusher.user.user_data.id].sort());
  });

  it('is refused without channel_data and without sign-in', async (t) => {
    const raw = await connectRaw(t, server);
    const channel = unique('presence-room');
    const { auth } = backendOf(server).authorizeChannel(raw.socketId, channel);
    raw.send('pusher:subscribe', { channel, auth });
    await raw.event('pusher:subscription_error', channel);
    await raw.settled();
  });
});
