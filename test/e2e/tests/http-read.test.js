import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, bodyOf, signedBy, statusOf } from '../lib/backend.js';
import { connect, subscribe, unique } from '../lib/clients.js';
import { startServer } from '../lib/server.js';
import { eventually } from '../lib/wait.js';

let server;
let backend;
before(async () => {
  server = await startServer();
  backend = backendOf(server);
});
after(() => server?.close());

const read = (path, params) => bodyOf(backend.get({ path, params }));
const refused = (path, params) => statusOf(backend.get({ path, params }));

/** Connects as a user and subscribes. */
async function join(t, name, user_id = 'anna') {
  const pusher = await connect(t, server, signedBy(backend, { member: { user_id } }));
  await subscribe(pusher, name);
  return pusher;
}

describe('the list of channels', () => {
  it('names those that are occupied', async (t) => {
    const [first, second] = [unique('listed'), unique('private-listed')];
    const pusher = await join(t, first);
    await join(t, second);
    const { channels } = await read('/channels');
    assert.deepEqual(channels[first], {});
    assert.deepEqual(channels[second], {});
    pusher.unsubscribe(first);
    await eventually(async () => !(await read('/channels')).channels[first], 'first is vacated');
  });

  it('is filtered by a prefix and carries attributes', async (t) => {
    const prefix = unique('presence-filter');
    await join(t, `${prefix}-a`, 'anna');
    await join(t, `${prefix}-a`, 'ben');
    await join(t, `${prefix}-a`, 'ben');
    await join(t, `${prefix}-b`);
    await join(t, unique('presence-other'));
    assert.deepEqual(await read('/channels', { filter_by_prefix: prefix }), {
      channels: { [`${prefix}-a`]: {}, [`${prefix}-b`]: {} },
    });
    const info = 'user_count,subscription_count';
    assert.deepEqual(await read('/channels', { filter_by_prefix: prefix, info }), {
      channels: {
        [`${prefix}-a`]: { user_count: 2, subscription_count: 3 },
        [`${prefix}-b`]: { user_count: 1, subscription_count: 1 },
      },
    });
  });

  it('carries subscription counts of public channels', async (t) => {
    const name = unique('counted');
    await join(t, name);
    await join(t, name);
    const params = { filter_by_prefix: name, info: 'subscription_count' };
    assert.deepEqual(await read('/channels', params), {
      channels: { [name]: { subscription_count: 2 } },
    });
  });

  it('is empty when nothing fits', async () => {
    assert.deepEqual(await read('/channels', { filter_by_prefix: unique('nothing') }), {
      channels: {},
    });
  });

  it('counts users of presence channels only', async () => {
    assert.equal(await refused('/channels', { info: 'user_count' }), 400);
    const params = { filter_by_prefix: 'private-', info: 'user_count' };
    assert.equal(await refused('/channels', params), 400);
  });
});

describe('one channel', () => {
  it('is occupied or not', async (t) => {
    const name = unique('single');
    assert.equal((await read(`/channels/${name}`)).occupied, false);
    await join(t, name);
    assert.deepEqual(await read(`/channels/${name}`), { occupied: true });
  });

  it('carries attributes', async (t) => {
    const name = unique('presence-single');
    await join(t, name, 'anna');
    await join(t, name, 'anna');
    const info = 'user_count,subscription_count';
    assert.deepEqual(await read(`/channels/${name}`, { info }), {
      occupied: true,
      user_count: 1,
      subscription_count: 2,
    });
  });

  it('has users only if it is a presence channel', async () => {
    assert.equal(await refused(`/channels/${unique('single')}`, { info: 'user_count' }), 400);
    assert.equal(await refused(`/channels/${unique('private-single')}/users`), 400);
  });

  it('lists its users once each', async (t) => {
    const name = unique('presence-users');
    assert.deepEqual(await read(`/channels/${name}/users`), { users: [] });
    await join(t, name, 'anna');
    await join(t, name, 42);
    await join(t, name, 42);
    const { users } = await read(`/channels/${name}/users`);
    users.sort((a, b) => a.id.localeCompare(b.id));
    assert.deepEqual(users, [{ id: '42' }, { id: 'anna' }]);
  });

  it('must have a proper name', async () => {
    assert.equal(await refused('/channels/white%20space'), 400);
  });
});
