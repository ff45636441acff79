import assert from 'node:assert/strict';
import { describe, it } from 'node:test';

import { backendOf, bodyOf } from '../lib/backend.js';
import { unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { anApp, startServer } from '../lib/server.js';
import { eventually } from '../lib/wait.js';

describe('a client that stops reading', { concurrency: true }, () => {
  for (const mode of ['event-loop', 'goroutine']) {
    it(`is dropped and holds nobody up, in mode ${mode}`, async (t) => {
      const server = await startServer({
        transport: { mode, max_queue: '1MiB' },
        apps: [anApp({ max_event_payload: '512KiB' })],
      });
      t.after(() => server.close());
      const backend = backendOf(server);
      const path = `/channels/${unique('news')}`;
      const channel = path.split('/').pop();
      const subscribers = async () => {
        const params = { info: 'subscription_count' };
        return (await bodyOf(backend.get({ path, params }))).subscription_count;
      };

      const [fast, slow] = [await connectRaw(t, server), await connectRaw(t, server)];
      for (const raw of [fast, slow]) await raw.subscribe(channel);
      slow.socket.pause();
      const data = 'x'.repeat(500 * 1024);
      await eventually(async () => {
        await backend.trigger(channel, 'large', data);
        assert.equal((await fast.event('large')).data.length, data.length);
        return (await subscribers()) === 1;
      }, 'only one subscriber is left');
      slow.socket.resume();
      const { code } = await slow.ended();
      assert.ok([4100, 1006].includes(code), `code ${code}`);
      await fast.settled();
    });
  }
});
