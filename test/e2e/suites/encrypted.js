import assert from 'node:assert/strict';
import { it } from 'node:test';

import { backendOf, signedBy } from '../lib/backend.js';
import { connect, subscribe, unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';

/** Channels whose payloads only the publisher and the subscribers can read. */
export function encryptedTests(at) {
  it('passes sealed payloads through to subscribers, who open them', async (t) => {
    const backend = backendOf(at.server);
    const pusher = await connect(t, at.server, signedBy(backend));
    const { channel, events } = await subscribe(pusher, unique('private-encrypted-room'));
    await backend.trigger(channel.name, 'secret', { text: 'grüße', n: 1 });
    assert.deepEqual(await events.event('secret'), { text: 'grüße', n: 1 });
  });

  it('opens the events of a batch', async (t) => {
    const backend = backendOf(at.server);
    const pusher = await connect(t, at.server, signedBy(backend));
    const { channel, events } = await subscribe(pusher, unique('private-encrypted-room'));
    await backend.triggerBatch([{ channel: channel.name, name: 'secret', data: { n: 2 } }]);
    assert.deepEqual(await events.event('secret'), { n: 2 });
  });

  it('never shows the clear text', async (t) => {
    const backend = backendOf(at.server);
    const name = unique('private-encrypted-room');
    const raw = await connectRaw(t, at.server);
    const { auth } = backend.authorizeChannel(raw.socketId, name);
    await raw.subscribe(name, { auth });
    await backend.trigger(name, 'secret', { text: 'in the clear' });
    const { data } = await raw.event('secret', name);
    assert.deepEqual(Object.keys(JSON.parse(data)).sort(), ['ciphertext', 'nonce']);
    assert.doesNotMatch(data, /clear/);
  });
}
