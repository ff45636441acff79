import assert from 'node:assert/strict';
import { it } from 'node:test';

import { backendOf, signedBy } from '../lib/backend.js';
import { connect, errorCode, failure, subscribe, unique } from '../lib/clients.js';
import { eventually } from '../lib/wait.js';

/** Events that clients send to each other. */
export function clientEventTests(at) {
  const join = async (t, name, user_id) => {
    const identity = { member: user_id && { user_id } };
    const pusher = await connect(t, at.server, signedBy(backendOf(at.server), identity));
    return { pusher, ...(await subscribe(pusher, name)) };
  };

  for (const kind of ['private-', 'private-cache-', 'presence-', 'presence-cache-']) {
    it(`delivers to the others on a ${kind} channel, not to the sender`, async (t) => {
      const name = unique(`${kind}chat`);
      const user = kind.startsWith('presence-');
      const anna = await join(t, name, user && 'anna');
      const ben = await join(t, name, user && 'ben');
      assert.equal(anna.channel.trigger('client-said', { text: 'hi', n: 1 }), true);
      assert.deepEqual(await ben.events.event('client-said'), { text: 'hi', n: 1 });
      ben.channel.trigger('client-answered', 'a string');
      assert.equal(await anna.events.event('client-answered'), 'a string');
      assert.deepEqual(anna.events.named('client-said'), []);
    });
  }

  it('names the sender on a presence channel', async (t) => {
    const name = unique('presence-chat');
    const anna = await join(t, name, 'anna');
    const ben = await join(t, name, 'ben');
    const received = new Promise((resolve) => {
      ben.channel.bind('client-said', (data, metadata) => resolve({ data, metadata }));
    });
    anna.channel.trigger('client-said', { n: 1 });
    assert.deepEqual(await received, { data: { n: 1 }, metadata: { user_id: 'anna' } });
  });

  it('names a sender with a numeric id', async (t) => {
    const name = unique('presence-chat');
    const ten = await join(t, name, 10);
    const ben = await join(t, name, 'ben');
    const received = new Promise((resolve) => {
      ben.channel.bind('client-said', (_, metadata) => resolve(metadata.user_id));
    });
    ten.channel.trigger('client-said', {});
    assert.equal(await received, '10');
  });

  // The sender is told, the subscribers get nothing, and the connection stays.
  const assertRefused = async (sender, receiver, name) => {
    await failure(sender.pusher, 4301);
    await backendOf(at.server).trigger(name, 'barrier', {});
    await receiver.events.event('barrier');
    assert.deepEqual(receiver.events.named('client-said'), []);
    assert.equal(sender.pusher.connection.state, 'connected');
  };

  for (const kind of ['', 'cache-', 'private-encrypted-', 'private-encrypted-cache-']) {
    it(`refuses on a ${kind || 'public '} channel`, async (t) => {
      const name = unique(`${kind}chat`);
      const [anna, ben] = [await join(t, name), await join(t, name)];
      // Past the checks of pusher-js, which refuses on encrypted channels by itself.
      anna.pusher.send_event('client-said', { n: 1 }, name);
      await assertRefused(anna, ben, name);
    });
  }

  it('refuses from a client that is not subscribed', async (t) => {
    const name = unique('private-chat');
    const ben = await join(t, name);
    const stranger = { pusher: await connect(t, at.server) };
    stranger.pusher.send_event('client-said', { n: 1 }, name);
    await assertRefused(stranger, ben, name);
  });

  it('refuses data over 10 KiB', async (t) => {
    const name = unique('private-chat');
    const [anna, ben] = [await join(t, name), await join(t, name)];
    anna.channel.trigger('client-said', { text: 'x'.repeat(10 * 1024) });
    await assertRefused(anna, ben, name);
  });

  it('refuses more than ten a second', async (t) => {
    const name = unique('private-chat');
    const [anna, ben] = [await join(t, name), await join(t, name)];
    const sent = 40;
    const began = performance.now();
    for (let n = 0; n < sent; n++) anna.channel.trigger('client-said', { n });
    const received = () => ben.events.named('client-said').length;
    const refused = () => anna.pusher.errors.all.filter((e) => errorCode(e) === 4301).length;
    await eventually(() => received() + refused() === sent, 'every event is delivered or refused');
    // Mostly they come within one second's quota or two; a busy server reads them for longer.
    const most = 10 * (2 + Math.floor((performance.now() - began) / 1000));
    assert.ok(received() >= 10 && received() <= most, `${received()} of ${sent} were delivered`);
    assert.equal(anna.pusher.connection.state, 'connected');
  });
}
