// The real client of WuKongIM in Chromium, each user in a page of its own.

import assert from 'node:assert/strict';
import { after, before, describe, it } from 'node:test';

import { startChromium } from '../lib/chromium.js';
import { group, person, scriptForPages, startIM, User } from '../lib/im.js';
import { listen } from '../lib/receiver.js';
import { patience } from '../lib/wait.js';

const success = 1;

let site;
let chromium;
before(async () => {
  const script = scriptForPages();
  site = await listen(async (request, response) => {
    const wanted = request.url === '/sdk.js';
    response.setHeader('content-type', `${wanted ? 'text/javascript' : 'text/html'}; charset=utf-8`);
    response.end(wanted ? script : '<!doctype html><title>Chat</title><link rel="icon" href="data:,"><script src="/sdk.js"></script>');
  });
  chromium = await startChromium();
});
after(async () => {
  await chromium?.close();
  await site?.close();
});

/** Opens a page with a user who is connected. */
async function openPage(t, addr, uid) {
  const page = await chromium.newPage();
  t.after(() => page.close());
  page.setDefaultTimeout(patience);
  const errors = [];
  page.on('pageerror', (error) => errors.push(String(error)));
  t.after(() => assert.deepEqual(errors, [], `errors in the page of ${uid}`));
  await page.goto(site.url);
  await page.evaluate(connectInPage, { addr, uid, token: 'token' });
  await page.waitForFunction(() => window.states.at(-1) === 1);
  return page;
}

/* The functions below run in the page. */

function connectInPage(options) {
  const sdk = window.WK.default.shared();
  window.states = [];
  window.received = [];
  window.acks = [];
  Object.assign(sdk.config, options);
  sdk.connectManager.addConnectStatusListener((state) => window.states.push(state));
  sdk.chatManager.addMessageStatusListener((ack) => window.acks.push([ack.clientSeq, ack.reasonCode, ack.messageSeq]));
  sdk.chatManager.addMessageListener((m) => {
    if (m.send && !m.messageSeq) return; // what this page has just sent
    window.received.push([m.fromUID, m.channel.channelID, m.channel.channelType, m.messageSeq, m.content.text]);
  });
  sdk.connect();
}

async function sendInPage([text, channel, type]) {
  const { WK } = window;
  const { clientSeq } = await WK.default.shared().chatManager.send(new WK.MessageText(text), new WK.Channel(channel, type));
  return clientSeq;
}

/** Sends a text and returns reason and number of its acknowledgement. */
async function send(page, text, channel, type) {
  const sent = await page.evaluate(sendInPage, [text, channel, type]);
  const handle = await page.waitForFunction((seq) => window.acks.find(([of]) => of === seq), sent);
  return (await handle.jsonValue()).slice(1);
}

/** Waits until a page has received a text, and returns what it was told. */
async function receives(page, text) {
  const handle = await page.waitForFunction((wanted) => window.received.find((m) => m[4] === wanted), text);
  return handle.jsonValue();
}

const numbersIn = (page) => page.evaluate(() => window.received.map((m) => m[3]));

describe("WuKongIM's client in Chromium", { concurrency: 2 }, () => {
  it('talks to a person and to a client in Node', async (t) => {
    const im = await startIM(t);
    const alice = await openPage(t, im.ws, 'alice');
    const again = await openPage(t, im.ws, 'alice');
    const bob = await openPage(t, im.ws, 'bob');
    const carol = await new User(t, im.ws, 'carol').connected();
    assert.deepEqual(await send(alice, 'grüße 你好', 'bob', person), [success, 1]);
    assert.deepEqual(await receives(bob, 'grüße 你好'), ['alice', 'alice', person, 1, 'grüße 你好']);
    assert.deepEqual(await receives(again, 'grüße 你好'), ['alice', 'bob', person, 1, 'grüße 你好']);
    assert.deepEqual(await send(bob, 'hello', 'alice', person), [success, 2]);
    assert.deepEqual(await receives(alice, 'hello'), ['bob', 'bob', person, 2, 'hello']);
    assert.deepEqual(await send(alice, 'to Node', 'carol', person), [success, 1]);
    assert.equal((await carol.receives('to Node')).from, 'alice');
    await carol.send('to Chromium', 'alice');
    assert.deepEqual(await receives(alice, 'to Chromium'), ['carol', 'carol', person, 2, 'to Chromium']);
  });

  it('gets each of many messages at once', async (t) => {
    const im = await startIM(t);
    const alice = await openPage(t, im.ws, 'alice');
    const bob = await openPage(t, im.ws, 'bob');
    await alice.evaluate(() => {
      const { WK } = window;
      for (let i = 1; i <= 200; i++) WK.default.shared().chatManager.send(new WK.MessageText(`n${i}`), new WK.Channel('bob', 1));
    });
    await receives(bob, 'n200');
    assert.deepEqual(await numbersIn(bob), Array.from({ length: 200 }, (_, i) => i + 1));
  });

  it('talks in a group, and comes back when the server was killed', async (t) => {
    const im = await startIM(t);
    await im.post('/channel', { channel_id: 'tea', channel_type: group, subscribers: ['alice', 'bob', 'carol'] });
    const pages = await Promise.all(['alice', 'bob', 'carol'].map((uid) => openPage(t, im.ws, uid)));
    const [alice, bob, carol] = pages;
    assert.deepEqual(await send(alice, 'one', 'tea', group), [success, 1]);
    for (const page of [bob, carol]) assert.deepEqual(await receives(page, 'one'), ['alice', 'tea', group, 1, 'one']);

    await im.server.kill();
    for (const page of pages) await page.waitForFunction(() => window.states.at(-1) === 0);
    // What is sent meanwhile waits in the client until it is connected again.
    const waiting = await bob.evaluate(sendInPage, ['meanwhile', 'tea', group]);
    await im.server.start();
    for (const page of pages) await page.waitForFunction(() => window.states.at(-1) === 1);
    const ack = await bob.waitForFunction((seq) => window.acks.find(([of]) => of === seq), waiting);
    assert.deepEqual((await ack.jsonValue()).slice(1), [success, 2]);
    assert.deepEqual(await send(carol, 'three', 'tea', group), [success, 3]);
    assert.deepEqual(await receives(alice, 'three'), ['carol', 'tea', group, 3, 'three']);
    assert.deepEqual(await receives(bob, 'three'), ['carol', 'tea', group, 3, 'three']);
    const { body } = await im.post('/channel/messagesync', { login_uid: 'alice', channel_id: 'tea', channel_type: group, limit: 10 });
    assert.deepEqual(body.messages.map((m) => m.message_seq), [1, 2, 3]);
  });
});
