import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { connect, subscribe, unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { startServer } from '../lib/server.js';

let server;
let patient; // a test that is held up for seconds still answers in time
before(async () => {
  server = await startServer({ channels: { activity_timeout: '1s', pong_timeout: '2s' } });
  patient = await startServer({ channels: { activity_timeout: '1s', pong_timeout: '10s' } });
});
after(() => Promise.all([server?.close(), patient?.close()]));

describe('a silent connection', { concurrency: true }, () => {
  it('is asked to ping and ended with 4201 when it does not answer', async (t) => {
    const raw = await connectRaw(t, server);
    await raw.event('pusher:ping');
    assert.equal((await raw.ended()).code, 4201);
  });

  // The second ping comes when the time to answer the first one is over.
  it('stays when it answers', async (t) => {
    const raw = await connectRaw(t, patient);
    for (let n = 0; n < 2; n++) {
      await raw.event('pusher:ping');
      raw.send('pusher:pong', {});
    }
    await raw.settled();
  });

  it('stays when it answers the WebSocket way', async (t) => {
    const raw = await connectRaw(t, patient);
    for (let n = 0; n < 2; n++) {
      await raw.event('pusher:ping');
      raw.socket.ping();
    }
    await raw.settled();
  });

  it('is kept alive by pusher-js', async (t) => {
    const pusher = await connect(t, patient);
    const silent = await connectRaw(t, patient); // connected later, so its time is up later
    assert.equal((await silent.ended()).code, 4201);
    await subscribe(pusher, unique('news'));
    assert.deepEqual(pusher.errors.all, []);
  });
});
