import assert from 'node:assert/strict';
import { it } from 'node:test';

import { backendOf, bodyOf, signedBy } from '../lib/backend.js';
import { connect, failure, memberIds, record, subscribe, unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';

/** Presence channels: who is there, who comes and who goes. */
export function presenceTests(at) {
  const join = async (t, name, user_id, user_info) => {
    const identity = { member: { user_id, user_info } };
    const pusher = await connect(t, at.server, signedBy(backendOf(at.server), identity));
    return { pusher, ...(await subscribe(pusher, name)) };
  };
  const usersOf = async (name) => {
    const { users } = await bodyOf(backendOf(at.server).get({ path: `/channels/${name}/users` }));
    return users.map(({ id }) => id).sort();
  };

  it('lists the members, the new one included', async (t) => {
    const name = unique('presence-room');
    const anna = await join(t, name, 'anna', { name: 'Anna', tags: ['<a>', 'ü'] });
    assert.equal(anna.channel.members.count, 1);
    assert.deepEqual(anna.channel.members.me, {
      id: 'anna',
      info: { name: 'Anna', tags: ['<a>', 'ü'] },
    });
    const ben = await join(t, name, 'ben', { name: 'Ben' });
    assert.equal(ben.channel.members.count, 2);
    assert.deepEqual(memberIds(ben.channel), ['anna', 'ben']);
    assert.deepEqual(ben.channel.members.get('anna').info.tags, ['<a>', 'ü']);
    assert.deepEqual(await usersOf(name), ['anna', 'ben']);
  });

  it('accepts a numeric user id', async (t) => {
    const name = unique('presence-room');
    const anna = await join(t, name, 'anna');
    const ten = await join(t, name, 10, { name: 'Mr. Channels' });
    assert.deepEqual(ten.channel.members.get('10'), { id: '10', info: { name: 'Mr. Channels' } });
    assert.deepEqual(ten.channel.members.me.info, { name: 'Mr. Channels' });
    const added = await anna.events.event('pusher:member_added');
    assert.equal(added.id, '10');
    ten.pusher.disconnect();
    assert.equal((await anna.events.event('pusher:member_removed')).id, '10');
  });

  it('tells of coming and going', async (t) => {
    const name = unique('presence-room');
    const anna = await join(t, name, 'anna');
    const ben = await join(t, name, 'ben', { name: 'Ben' });
    assert.deepEqual(await anna.events.event('pusher:member_added'), {
      id: 'ben',
      info: { name: 'Ben' },
    });
    ben.pusher.unsubscribe(name);
    assert.equal((await anna.events.event('pusher:member_removed')).id, 'ben');
    assert.deepEqual(memberIds(anna.channel), ['anna']);
    assert.deepEqual(ben.events.named('pusher:member_added'), [], 'nobody is told about himself');
  });

  it('counts a user with two sockets once', async (t) => {
    const name = unique('presence-room');
    const anna = await join(t, name, 'anna');
    const phone = await join(t, name, 'ben', { device: 'phone' });
    const laptop = await join(t, name, 'ben', { device: 'laptop' });
    assert.equal(laptop.channel.members.count, 2);
    assert.deepEqual(await usersOf(name), ['anna', 'ben']);
    phone.pusher.disconnect();
    // The socket is gone once its subscription no longer counts, and ben is still there.
    const { id } = (await join(t, name, 'carl')).channel.members.me;
    await anna.events.take(({ data }) => data?.id === id, 'carl');
    assert.deepEqual(anna.events.named('pusher:member_removed'), []);
    laptop.pusher.disconnect();
    assert.equal((await anna.events.event('pusher:member_removed')).id, 'ben');
    await join(t, name, 'dora');
    await anna.events.take(({ data }) => data?.id === 'dora', 'dora');
    const comings = anna.events.named('pusher:member_added').map(({ data }) => data.id);
    assert.deepEqual(comings, ['ben', 'carl', 'dora']);
    assert.equal(anna.events.named('pusher:member_removed').length, 1);
  });

  it('tells of a member whose connection breaks', async (t) => {
    const name = unique('presence-room');
    const anna = await join(t, name, 'anna');
    const ben = await connectRaw(t, at.server);
    const signature = backendOf(at.server).authorizeChannel(ben.socketId, name, { user_id: 'ben' });
    await ben.subscribe(name, signature);
    await anna.events.event('pusher:member_added');
    ben.socket.terminate(); // without a close frame
    assert.equal((await anna.events.event('pusher:member_removed')).id, 'ben');
    assert.deepEqual(await usersOf(name), ['anna']);
  });

  it('delivers events to the members', async (t) => {
    const { channel, events } = await join(t, unique('presence-room'), 'anna');
    await backendOf(at.server).trigger(channel.name, 'hello', { n: 1 });
    assert.deepEqual(await events.event('hello'), { n: 1 });
  });

  it('refuses a wrong signature', async (t) => {
    const liar = backendOf(at.server, { secret: 'another-secret' });
    const identity = { member: { user_id: 'anna' } };
    const pusher = await connect(t, at.server, signedBy(liar, identity));
    const refused = record(pusher.subscribe(unique('presence-room')));
    assert.equal((await refused.event('pusher:subscription_error')).status, 401);
    await failure(pusher, 4009);
    assert.deepEqual(await usersOf(refused.name), []);
  });
}
