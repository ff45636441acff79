import assert from 'node:assert/strict';
import https from 'node:https';
import { after, before, describe, it } from 'node:test';

import { backendOf, bodyOf, signedBy } from '../lib/backend.js';
import { makeCertificate } from '../lib/certificate.js';
import { connect, subscribe, unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { startServer } from '../lib/server.js';

// pusher-js has no option for a certificate authority in Node. The other clients here
// verify the certificate.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';

let certificate;
let server;
let backend;
before(async () => {
  certificate = await makeCertificate();
  server = await startServer({ tls: certificate.files });
  const agent = new https.Agent({ ca: certificate.pem, rejectUnauthorized: true });
  backend = backendOf(server, { agent });
});
after(async () => {
  await server?.close();
  await certificate?.remove();
});

describe('TLS', () => {
  it('carries pusher-js and the server library', async (t) => {
    const identity = { member: { user_id: 'anna' } };
    const pusher = await connect(t, server, signedBy(backend, identity));
    assert.equal(pusher.connection.isUsingTLS(), true);
    const { channel, events } = await subscribe(pusher, unique('presence-room'));
    assert.deepEqual(await bodyOf(backend.trigger(channel.name, 'hello', { n: 1 })), {});
    assert.deepEqual(await events.event('hello'), { n: 1 });
    const other = await connect(t, server, signedBy(backend, { member: { user_id: 'ben' } }));
    const joined = await subscribe(other, channel.name);
    joined.channel.trigger('client-said', { n: 2 });
    assert.deepEqual(await events.event('client-said'), { n: 2 });
  });

  it('presents the certificate of the configuration', async (t) => {
    const raw = await connectRaw(t, server, { ca: certificate.pem, rejectUnauthorized: true });
    const large = 'x'.repeat(9000);
    const channel = unique('news');
    await raw.subscribe(channel);
    for (let n = 0; n < 20; n++) await backend.trigger(channel, 'large', { n, large });
    for (let n = 0; n < 20; n++) {
      assert.deepEqual(JSON.parse((await raw.event('large')).data), { n, large });
    }
  });

  it('is required on its port', async () => {
    const url = server.url.replace('https:', 'http:');
    const response = await fetch(`${url}/ready`).catch((error) => error);
    assert.notEqual(response.status, 200);
  });
});
