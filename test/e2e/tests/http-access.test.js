import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { after, before, describe, it } from 'node:test';

import PusherServer from 'pusher';

import { backendOf, statusOf } from '../lib/backend.js';
import { connect, subscribe, unique } from '../lib/clients.js';
import { anApp, startServer } from '../lib/server.js';

const app = anApp();
const other = anApp({ id: 'other', key: 'other-key', secret: 'other-secret' });
const limited = anApp({ id: 'limited', key: 'limited-key', max_backend_events_per_second: 2 });

let server;
before(async () => {
  server = await startServer({ apps: [app, other, limited] });
});
after(() => server?.close());

const body = JSON.stringify({ name: 'hello', channels: ['news'], data: '{}' });
const md5 = (text) => createHash('md5').update(text).digest('hex');
const now = () => Math.floor(Date.now() / 1000);

/** Publishes with a signature made here, in which every parameter can be changed. */
async function publishWith(changes, { sent = body, secret = app.secret } = {}) {
  const params = {
    auth_key: app.key,
    auth_timestamp: now(),
    auth_version: '1.0',
    body_md5: md5(body),
    ...changes,
  };
  const query = Object.keys(params)
    .filter((name) => params[name] !== undefined)
    .sort()
    .map((name) => `${name}=${params[name]}`)
    .join('&');
  const path = `/apps/${app.id}/events`;
  const token = new PusherServer.Token(app.key, secret);
  const signature = token.sign(['POST', path, query].join('\n'));
  const url = `${server.url}${path}?${query}&auth_signature=${signature}`;
  const headers = { 'content-type': 'application/json' };
  return (await fetch(url, { method: 'POST', body: sent, headers })).status;
}

describe('a signed request', () => {
  it('is accepted', async () => {
    assert.equal(await publishWith({}), 200);
  });

  for (const [what, minutes, status] of [
    ['9 minutes old', -9, 200],
    ['11 minutes old', -11, 401],
    ['11 minutes from the future', 11, 401],
  ]) {
    it(`that is ${what} answers ${status}`, async () => {
      assert.equal(await publishWith({ auth_timestamp: now() + minutes * 60 }), status);
    });
  }

  for (const [what, changes, options] of [
    ['by another secret', {}, { secret: 'another-secret' }],
    ['of another body', {}, { sent: body.replace('news', 'olds') }],
    ['without the body', { body_md5: undefined }],
    ['without a key', { auth_key: undefined }],
    ['without a time', { auth_timestamp: undefined }],
    ['without a version', { auth_version: undefined }],
    ['with a time that is no number', { auth_timestamp: 'soon' }],
    ['by an unknown key', { auth_key: 'no-such-key' }],
  ]) {
    it(`${what} is refused with 401`, async () => {
      assert.equal(await publishWith(changes, options), 401);
    });
  }

  it('without any signature is refused with 401', async () => {
    const response = await fetch(`${server.url}/apps/${app.id}/channels`);
    assert.equal(response.status, 401);
  });

  it('is refused by the library with 401 for a wrong secret', async () => {
    const liar = backendOf(server, { secret: 'another-secret' });
    assert.equal(await statusOf(liar.trigger('news', 'hello', {})), 401);
    assert.equal(await statusOf(liar.get({ path: '/channels' })), 401);
  });

  it('of one app does not open another', async (t) => {
    const name = unique('news');
    const pusher = await connect(t, server, { key: other.key });
    const { events } = await subscribe(pusher, name);
    const intruder = backendOf(server, { app: { ...app, id: other.id } });
    assert.equal(await statusOf(intruder.trigger(name, 'hello', {})), 401);
    await backendOf(server, { app: other }).trigger(name, 'barrier', {});
    await events.event('barrier');
    assert.deepEqual(events.named('hello'), []);
  });
});

describe('a request', () => {
  it('for an unknown app is refused with 404', async () => {
    const backend = backendOf(server, { app: { ...app, id: 'no-such-app' } });
    assert.equal(await statusOf(backend.trigger('news', 'hello', {})), 404);
    assert.equal(await statusOf(backend.get({ path: '/channels' })), 404);
  });

  it('for an unknown path is refused with 404', async () => {
    assert.equal(await statusOf(backendOf(server).get({ path: '/no-such-path' })), 404);
    assert.equal((await fetch(`${server.url}/no-such-path`)).status, 404);
  });

  it('with broken JSON is refused with 400', async () => {
    const sent = '{"name": ';
    assert.equal(await publishWith({ body_md5: md5(sent) }, { sent }), 400);
  });

  it('over the quota of the app is refused with 429', async () => {
    const backend = backendOf(server, { app: limited });
    const requests = Array.from({ length: 10 }, () => backend.trigger('news', 'hello', {}));
    const results = await Promise.allSettled(requests);
    const refused = results.filter(({ reason }) => reason?.status === 429).length;
    const accepted = results.filter(({ value }) => value?.status === 200).length;
    assert.equal(refused + accepted, 10);
    assert.ok(accepted >= 2, `${accepted} of 10 were accepted`);
    assert.ok(refused >= 1, `${refused} of 10 were refused`);
  });
});

describe('beside the apps', () => {
  it('the node says that it is ready and alive', async () => {
    assert.equal((await fetch(`${server.url}/ready`)).status, 200);
    const up = await fetch(`${server.url}/up`);
    assert.equal(up.status, 200);
    assert.equal((await up.text()).trim(), 'OK');
  });

  it('metrics have a port of their own', async (t) => {
    await connect(t, server);
    const { host, port } = server.config.metrics;
    const response = await fetch(`http://${host}:${port}/metrics`);
    assert.equal(response.status, 200);
    assert.match(await response.text(), /^parley_\w+/m);
    assert.equal((await fetch(`${server.url}/metrics`)).status, 404);
  });
});
