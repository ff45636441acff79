// The browser builds of pusher-js and laravel-echo in Chromium.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { backendOf, bodyOf } from '../lib/backend.js';
import { startChromium } from '../lib/chromium.js';
import { unique } from '../lib/clients.js';
import { anApp, startServer } from '../lib/server.js';
import { startSite } from '../lib/site.js';
import { patience } from '../lib/wait.js';

let site;
let server;
let backend;
let chromium;
before(async () => {
  site = await startSite();
  server = await startServer({
    apps: [anApp({ allowed_origins: [site.url], enable_user_authentication: true })],
  });
  backend = site.backend = backendOf(server);
  chromium = await startChromium();
});
after(async () => {
  await chromium?.close();
  await server?.close();
  await site?.close();
});

/** Opens a page of the site. */
async function emptyPage(t) {
  const page = await chromium.newPage();
  t.after(() => page.close());
  page.setDefaultTimeout(patience);
  await page.goto(site.url);
  return page;
}

/** Opens a page with a connected pusher-js as window.pusher. */
async function openPage(t, user) {
  const page = await emptyPage(t);
  await page.evaluate(connectInPage, {
    key: server.apps[0].key,
    options: {
      cluster: '',
      wsHost: server.host,
      wsPort: server.port,
      forceTLS: false,
      channelAuthorization: { endpoint: '/pusher/auth', params: user ? { user } : {} },
      userAuthentication: { endpoint: '/pusher/user-auth', params: user ? { user } : {} },
    },
  });
  await page.waitForFunction(() => window.pusher.connection.state === 'connected');
  return page;
}

/* The functions below run in the page. */

function connectInPage({ key, options }) {
  window.seen = []; // [channel, event, data, metadata] of everything that arrived
  window.pusher = new window.Pusher(key, options);
}

function subscribeInPage([name, event]) {
  const channel = window.pusher.subscribe(name);
  const see = (what) => (data, metadata) => window.seen.push([name, what, data, metadata]);
  channel.bind(event, see(event));
  channel.bind('pusher:member_added', ({ id }) => window.seen.push([name, 'added', id]));
  channel.bind('pusher:member_removed', ({ id }) => window.seen.push([name, 'removed', id]));
  return new Promise((resolve, reject) => {
    channel.bind('pusher:subscription_succeeded', () => resolve());
    channel.bind('pusher:subscription_error', (error) => reject(new Error(error.status)));
  });
}

function startEchoInPage({ name, user, host, port, key }) {
  window.seen = [];
  const see = (what) => (data) => window.seen.push([name, what, data]);
  window.echo = new window.Echo.default({
    ...{ broadcaster: 'pusher', key, cluster: '', wsHost: host, wsPort: port, forceTLS: false },
    auth: { headers: {}, params: { user } }, // for Laravel's /broadcasting/auth
  });
  window.echo.channel(name).listen('OrderShipped', see('shipped'));
  const presence = window.echo.join(name).here(see('here')).joining(see('joining'));
  presence.leaving(see('leaving')).listenForWhisper('typing', see('typing'));
}

/** Waits until something is seen on the page, and returns it. */
async function seen(page, name, event) {
  const find = ([channel, what]) =>
    window.seen.find((item) => item[0] === channel && item[1] === what);
  const handle = await page.waitForFunction(find, [name, event]);
  return handle.jsonValue();
}

describe('pusher-js in Chromium', () => {
  for (const kind of ['', 'private-', 'presence-']) {
    it(`receives on a ${kind || 'public '} channel what a backend publishes`, async (t) => {
      const page = await openPage(t, 'anna');
      const name = unique(`${kind}page`);
      await page.evaluate(subscribeInPage, [name, 'hello']);
      const data = { text: 'grüße <b>&</b> \u2028' };
      assert.deepEqual(await bodyOf(backend.trigger(name, 'hello', data)), {});
      assert.deepEqual((await seen(page, name, 'hello'))[2], data);
    });
  }

  it('is kept out when the endpoint signs nothing', async (t) => {
    const page = await openPage(t);
    const name = unique('private-page');
    await assert.rejects(page.evaluate(subscribeInPage, [name, 'hello']), /403/);
  });

  it('exchanges client events with another page, which then goes', async (t) => {
    const name = unique('presence-page');
    const anna = await openPage(t, 'anna');
    await anna.evaluate(subscribeInPage, [name, 'client-said']);
    const ben = await openPage(t, 'ben');
    await ben.evaluate(subscribeInPage, [name, 'client-said']);
    assert.equal((await seen(anna, name, 'added'))[2], 'ben');

    await ben.evaluate(
      (room) => window.pusher.channel(room).trigger('client-said', { n: 1 }),
      name,
    );
    const said = await seen(anna, name, 'client-said');
    assert.deepEqual(said, [name, 'client-said', { n: 1 }, { user_id: 'ben' }]);

    await ben.close();
    assert.equal((await seen(anna, name, 'removed'))[2], 'ben');
    const { users } = await bodyOf(backend.get({ path: `/channels/${name}/users` }));
    assert.deepEqual(users, [{ id: 'anna' }]);
  });

  it('signs in and receives what is for the user', async (t) => {
    const user = unique('user');
    const page = await openPage(t, user);
    await page.evaluate(() => {
      window.pusher.user.bind('alert', (data) => window.seen.push(['user', 'alert', data]));
      window.pusher.signin();
    });
    await page.waitForFunction(() => window.pusher.user.serverToUserChannel?.subscribed);
    await backend.sendToUser(user, 'alert', { n: 1 });
    assert.deepEqual((await seen(page, 'user', 'alert'))[2], { n: 1 });
  });
});

describe('laravel-echo in Chromium', () => {
  it('connects by itself, listens, joins and whispers', async (t) => {
    const name = unique('page');
    const openEcho = async (user) => {
      const page = await emptyPage(t);
      const { host, port, apps } = server;
      await page.evaluate(startEchoInPage, { name, user, host, port, key: apps[0].key });
      return page;
    };
    const anna = await openEcho('anna');
    assert.deepEqual((await seen(anna, name, 'here'))[2], [{ name: 'ANNA' }]);
    await backend.trigger(name, 'App\\Events\\OrderShipped', { id: 7 });
    assert.deepEqual((await seen(anna, name, 'shipped'))[2], { id: 7 });

    const ben = await openEcho('ben');
    assert.deepEqual((await seen(anna, name, 'joining'))[2], { name: 'BEN' });
    await seen(ben, name, 'here');
    await ben.evaluate((room) => window.echo.join(room).whisper('typing', { n: 1 }), name);
    assert.deepEqual((await seen(anna, name, 'typing'))[2], { n: 1 });
    await ben.close();
    assert.deepEqual((await seen(anna, name, 'leaving'))[2], { name: 'BEN' });
  });
});
