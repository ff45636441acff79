import assert from 'node:assert/strict';
import { it } from 'node:test';

import { backendOf, bodyOf, signedBy } from '../lib/backend.js';
import { connect, subscribe, unique } from '../lib/clients.js';

const kinds = ['cache-', 'private-cache-', 'presence-cache-', 'private-encrypted-cache-'];

/** Channels that remember their last event. */
export function cacheTests(at) {
  const identity = { member: { user_id: 'anna' } };
  const join = async (t, name) =>
    subscribe(await connect(t, at.server, signedBy(backendOf(at.server), identity)), name);

  for (const kind of kinds) {
    it(`gives the last event of a ${kind} channel to a new subscriber`, async (t) => {
      const name = unique(`${kind}state`);
      const backend = backendOf(at.server);
      await backend.trigger(name, 'score', { home: 0 });
      await backend.trigger(name, 'score', { home: 1, text: 'ü <b>' });
      const { events } = await join(t, name);
      assert.deepEqual(await events.event('score'), { home: 1, text: 'ü <b>' });
      await backend.trigger(name, 'barrier', {});
      await events.event('barrier');
      assert.equal(events.named('score').length, 1);
      assert.deepEqual(events.named('pusher:cache_miss'), []);
    });

    it(`says that a ${kind} channel remembers nothing`, async (t) => {
      const { channel, events } = await join(t, unique(`${kind}state`));
      await events.event('pusher:cache_miss');
      await backendOf(at.server).trigger(channel.name, 'score', { home: 1 });
      assert.deepEqual(await events.event('score'), { home: 1 });
    });
  }

  it('does not remember client events', async (t) => {
    const name = unique('private-cache-state');
    const [anna, ben] = [await join(t, name), await join(t, name)];
    anna.channel.trigger('client-score', { home: 9 });
    await ben.events.event('client-score');
    const { events } = await join(t, name);
    await events.event('pusher:cache_miss');
    assert.deepEqual(events.named('client-score'), []);
  });

  it('remembers across the last unsubscription', async (t) => {
    const name = unique('cache-state');
    const pusher = await connect(t, at.server);
    await subscribe(pusher, name);
    await backendOf(at.server).trigger(name, 'score', { home: 2 });
    pusher.disconnect();
    const { events } = await join(t, name);
    assert.deepEqual(await events.event('score'), { home: 2 });
  });

  it('remembers no event of an ordinary channel', async (t) => {
    const name = unique('news-cache-not-a-prefix');
    const backend = backendOf(at.server);
    await backend.trigger(name, 'score', { home: 1 });
    const { events } = await join(t, name);
    await backend.trigger(name, 'barrier', {});
    await events.event('barrier');
    assert.deepEqual(events.named('score'), []);
    assert.deepEqual(events.named('pusher:cache_miss'), []);
  });

  it('shows the remembered event in the HTTP API', async () => {
    const name = unique('cache-state');
    const backend = backendOf(at.server);
    const read = () =>
      bodyOf(backend.get({ path: `/channels/${name}`, params: { info: 'cache' } }));
    assert.equal((await read()).cache ?? null, null);
    await backend.trigger(name, 'score', { home: 3 });
    const { cache } = await read();
    assert.equal(cache.data, '{"home":3}');
    assert.ok(cache.ttl > 0 && cache.ttl <= 30 * 60, `ttl ${cache.ttl}`);
  });
}
