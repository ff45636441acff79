import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf } from '../lib/backend.js';
import { unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { startServer } from '../lib/server.js';

const text = 'again and again, '.repeat(500);

for (const mode of ['event-loop', 'goroutine']) {
  describe(`compression with transport mode ${mode}`, () => {
    let server;
    before(async () => {
      server = await startServer({ transport: { mode, compression: true } });
    });
    after(() => server?.close());

    it('shrinks messages in both directions and leaves them intact', async (t) => {
      const backend = backendOf(server);
      const channel = unique('private-room');
      const join = async (perMessageDeflate) => {
        const raw = await connectRaw(t, server, { perMessageDeflate });
        await raw.subscribe(channel, backend.authorizeChannel(raw.socketId, channel));
        return raw;
      };
      const packed = await join({ threshold: 0 });
      const plain = await join(false);
      assert.match(packed.socket.extensions, /^permessage-deflate/);
      assert.equal(plain.socket.extensions, '');

      const before = packed.socket._socket.bytesRead;
      for (let n = 0; n < 5; n++) {
        await backend.trigger(channel, 'hello', { n, text });
        for (const raw of [packed, plain]) {
          assert.deepEqual(JSON.parse((await raw.event('hello')).data), { n, text });
        }
      }
      const read = packed.socket._socket.bytesRead - before;
      assert.ok(read < text.length, `${read} bytes for five times ${text.length}`);

      packed.send('client-said', { text }, channel);
      assert.deepEqual((await plain.event('client-said')).data, { text });
      plain.send('client-said', { text }, channel);
      assert.deepEqual((await packed.event('client-said')).data, { text });
    });
  });
}

describe('compression', () => {
  it('is not offered unless it is asked for', async (t) => {
    const server = await startServer();
    t.after(() => server.close());
    const raw = await connectRaw(t, server, { perMessageDeflate: true });
    assert.equal(raw.socket.extensions, '');
  });
});
