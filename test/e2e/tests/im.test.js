import assert from 'node:assert/strict';
import { createHmac } from 'node:crypto';
import { rmSync } from 'node:fs';
import net from 'node:net';
import path from 'node:path';
import { describe, it } from 'node:test';

import { WebSocket } from 'ws';

import { base64, group, person, RPC, startIM, trust, User } from '../lib/im.js';
import { makeCertificate } from '../lib/certificate.js';
import { unique } from '../lib/clients.js';
import { startWebhookService } from '../lib/grpc.js';
import { freePort } from '../lib/ports.js';
import { listen, readBody, startReceiver } from '../lib/receiver.js';
import { eventually } from '../lib/wait.js';

const ok = { code: 200, body: { status: 200 } };
const success = 1;

describe('messaging with the real client', { concurrency: 3 }, () => {
  it('checks tokens, and tells a client that has none of them', async (t) => {
    const im = await startIM(t, { token_auth: true });
    assert.deepEqual(await im.post('/user/token', { uid: 'alice', token: 'right', device_flag: 1, device_level: 0 }), ok);
    await new User(t, im.ws, 'alice', 'right').connected();
    const wrong = new User(t, im.ws, 'alice', 'wrong');
    wrong.connect();
    await eventually(() => wrong.states.length > 0, 'the client is told');
    assert.deepEqual(wrong.states[0], [3, 2]);
    assert.equal((await fetch(`${im.api}/route`)).status, 401);
    // That it does not come again cannot be awaited: it would after 3 s.
    await new Promise((resolve) => setTimeout(resolve, 3500));
    assert.ok(!wrong.states.slice(1).some(([state]) => state !== 0), `it comes again: ${JSON.stringify(wrong.states)}`);
    assert.deepEqual((await im.get('/connz')).body.connections.map((c) => c.uid), ['alice']);
  });

  it('lets two persons and their devices talk', async (t) => {
    const im = await startIM(t);
    const alice = await new User(t, im.ws, 'alice').connected();
    const second = await new User(t, im.ws, 'alice').connected();
    const bob = await new User(t, im.ws, 'bob').connected();
    const ack = await alice.send('hi', 'bob');
    assert.equal(ack.reason, success);
    assert.equal(ack.seq, 1);
    const got = await bob.receives('hi');
    assert.deepEqual([got.from, got.channel, got.type, got.seq, got.id, got.redDot], ['alice', 'alice', person, 1, ack.id, true]);
    const copy = await second.receives('hi');
    assert.deepEqual([copy.from, copy.channel, copy.redDot], ['alice', 'bob', false]);
    assert.equal((await bob.send('hello', 'alice')).seq, 2);
    await alice.receives('hello');
    assert.ok(!alice.received.some((m) => m.text === 'hi'), 'the sending connection gets none');

    // Many at once: the client loses one of two frames in one message.
    for (let i = 0; i < 100; i++) alice.post(`n${i}`, 'bob');
    await bob.receives('n99');
    assert.deepEqual(bob.received.slice(-100).map((m) => m.text), Array.from({ length: 100 }, (_, i) => `n${i}`));
    const page = await im.post('/channel/messagesync', {
      login_uid: 'bob', channel_id: 'alice', channel_type: person, start_message_seq: 0, end_message_seq: 0, limit: 3, pull_mode: 0,
    });
    assert.deepEqual(page.body.messages.map((m) => m.message_seq), [100, 101, 102]);
    assert.equal(page.body.more, 1);
    assert.equal(page.body.messages[2].channel_id, 'alice');
  });

  it('reaches all of a group, and the other device of the sender', async (t) => {
    const im = await startIM(t);
    const uids = Array.from({ length: 12 }, (_, i) => `member-${i}`);
    assert.deepEqual(await im.post('/channel', { channel_id: 'g', channel_type: group, subscribers: uids }), ok);
    const users = await Promise.all(uids.map((uid) => new User(t, im.ws, uid).connected()));
    const second = await new User(t, im.ws, uids[0]).connected();
    const eve = await new User(t, im.ws, 'eve').connected();
    for (const [i, text] of ['one', 'two', 'three'].entries()) {
      assert.deepEqual(await users[0].send(text, 'g', group).then(({ reason, seq }) => [reason, seq]), [success, i + 1]);
    }
    for (const user of [...users.slice(1), second]) {
      await user.receives('three');
      const got = user.received.map((m) => [m.from, m.channel, m.type, m.seq, m.text, m.redDot]);
      const redDot = user !== second;
      assert.deepEqual(got, ['one', 'two', 'three'].map((text, i) => [uids[0], 'g', group, i + 1, text, redDot]));
    }
    await users[1].send('for eve', 'eve'); // what comes last to those who get nothing else
    await users[1].send('for the sender', uids[0]);
    await eve.receives('for eve');
    await users[0].receives('for the sender');
    assert.equal(eve.received.length, 1, 'who is no member gets nothing');
    assert.equal(users[0].received.length, 1, 'the sending connection gets none');
  });

  it('takes frames that were joined, and joins none', async (t) => {
    const im = await startIM(t);
    const text = (value) => Buffer.concat([Buffer.from([value.length >> 8, value.length & 255]), Buffer.from(value)]);
    const body = Buffer.concat([
      Buffer.from([5, 0]), text('device'), text('raw'), text('token'), Buffer.alloc(8), text(Buffer.alloc(32, 9).toString('base64')),
    ]);
    const connect = Buffer.concat([Buffer.from([0x10, body.length]), body]);
    const ping = Buffer.from([0x70]);
    const socket = new WebSocket(im.ws);
    t.after(() => socket.terminate());
    const got = [];
    socket.on('message', (data) => got.push(data));
    await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
    socket.send(Buffer.concat([connect, ping, ping, ping]));
    await eventually(() => got.length === 4, 'an answer to each');
    assert.equal(got[0][0] >> 4, 2, 'a CONNACK');
    assert.equal(got[0].length, 2 + got[0][1], 'and nothing behind it');
    assert.deepEqual(got.slice(1).map((data) => [...data]), [[0x80], [0x80], [0x80]]);
    // And a frame in pieces.
    const alice = await new User(t, im.ws, 'alice').connected();
    const again = new WebSocket(im.ws);
    t.after(() => again.terminate());
    const answers = [];
    again.on('message', (data) => answers.push(data));
    await new Promise((resolve, reject) => again.once('open', resolve).once('error', reject));
    for (const byte of connect) again.send(Buffer.from([byte]));
    await eventually(() => answers.length === 1, 'a CONNACK');
    assert.equal((await alice.send('still here', 'raw')).reason, success);
    await eventually(() => answers.length === 2 && answers[1][0] >> 4 === 5, 'a RECV');
  });

  it('asks for permission in the order of the original', async (t) => {
    const im = await startIM(t);
    const g = unique('g');
    const create = (body) => im.post('/channel', { channel_id: g, channel_type: group, ...body });
    assert.deepEqual(await create({ subscribers: ['alice', 'bob'] }), ok);
    const [alice, bob, eve] = await Promise.all(['alice', 'bob', 'eve'].map((uid) => new User(t, im.ws, uid).connected()));
    assert.equal((await alice.send('one', g, group)).reason, success);
    await bob.receives('one');
    assert.equal((await eve.send('no', g, group)).reason, 3);
    await im.post('/channel/blacklist_add', { channel_id: g, channel_type: group, uids: ['alice'] });
    assert.equal((await alice.send('no', g, group)).reason, 4);
    await im.post('/channel/blacklist_remove', { channel_id: g, channel_type: group, uids: ['alice'] });
    await im.post('/channel/whitelist_set', { channel_id: g, channel_type: group, uids: ['bob'] });
    assert.equal((await alice.send('no', g, group)).reason, 13);
    assert.equal((await bob.send('two', g, group)).reason, success);
    assert.deepEqual((await im.get(`/channel/whitelist?channel_id=${g}&channel_type=2`)).body, [{ uid: 'bob' }]);
    await im.post('/channel/whitelist_remove_all', { channel_id: g, channel_type: group });
    await im.post('/channel/info', { channel_id: g, channel_type: group, ban: 1 });
    assert.equal((await alice.send('no', g, group)).reason, 19);
    await im.post('/channel/info', { channel_id: g, channel_type: group, ban: 0 });
    await im.post('/channel/info', { channel_id: 'alice', channel_type: person, send_ban: 1 });
    assert.equal((await alice.send('no', g, group)).reason, 25);
    await im.post('/channel/info', { channel_id: 'alice', channel_type: person, send_ban: 0 });
    await im.post('/channel/blacklist_add', { channel_id: 'bob', channel_type: person, uids: ['alice'] });
    assert.equal((await alice.send('no', 'bob')).reason, 4);
    await im.post('/channel/subscriber_remove', { channel_id: g, channel_type: group, subscribers: ['alice'] });
    assert.equal((await alice.send('no', g, group)).reason, 3);
    await im.post('/channel/delete', { channel_id: g, channel_type: group });
    assert.equal((await bob.send('no', g, group)).reason, 24);
    await im.post('/user/systemuids_add', { uids: ['eve'] });
    assert.equal((await eve.send('I may', 'bob')).reason, success);
  });

  it('keeps conversations exact', async (t) => {
    const im = await startIM(t);
    const g = unique('g');
    const alice = await new User(t, im.ws, 'alice').connected();
    await im.post('/channel', { channel_id: g, channel_type: group, subscribers: ['alice', 'bob'] });
    // A SENDACK comes when a message is stored; it can be read once it was delivered.
    const second = await new User(t, im.ws, 'alice').connected();
    for (const text of ['1', '2', '3']) await alice.send(text, g, group);
    await alice.send('hi', 'bob');
    for (const text of ['3', 'hi']) await second.receives(text);
    const sync = async (uid, more) => {
      const { body } = await im.post('/conversation/sync', { uid, version: 0, msg_count: 2, ...more });
      return body.map((c) => [c.channel_id, c.unread, c.last_msg_seq, c.recents.map((m) => m.message_seq)]);
    };
    assert.deepEqual(await sync('bob'), [['alice', 1, 1, [1]], [g, 3, 3, [3, 2]]]);
    assert.deepEqual(await sync('alice'), [['bob', 0, 1, [1]], [g, 0, 3, [3, 2]]]);
    await im.post('/conversations/setUnread', { uid: 'bob', channel_id: g, channel_type: group, unread: 1 });
    assert.deepEqual((await sync('bob')).find(([id]) => id === g), [g, 1, 3, [3, 2]]);
    await im.post('/conversations/clearUnread', { uid: 'bob', channel_id: g, channel_type: group });
    assert.deepEqual(await sync('bob', { only_unread: 1 }), [['alice', 1, 1, [1]]]);
    await im.post('/conversations/setUnread', { uid: 'bob', channel_id: g, channel_type: group, unread: 2 });
    assert.deepEqual((await sync('bob')).find(([id]) => id === g), [g, 2, 3, [3, 2]]);
    await im.post('/conversations/setUnread', { uid: 'alice', channel_id: g, channel_type: group, unread: 1 });
    assert.deepEqual((await sync('alice')).find(([id]) => id === g)[1], 1, 'also below what one has sent');
    await im.post('/conversations/delete', { uid: 'bob', channel_id: g, channel_type: group });
    assert.deepEqual(await sync('bob'), [['alice', 1, 1, [1]]]);
    await alice.send('4', g, group);
    await second.receives('4');
    assert.deepEqual((await sync('bob')).find(([id]) => id === g), [g, 1, 4, [4]]);
    assert.deepEqual(await sync('bob', { last_msg_seqs: `alice:1:1|${g}:2:3` }), [[g, 1, 4, [4]]]);
    assert.deepEqual(await sync('bob', { msg_count: 0 }), []);
  });

  it('sends for the application when a message is stored', async (t) => {
    const im = await startIM(t);
    const bob = await new User(t, im.ws, 'bob').connected();
    const payload = base64({ type: 1, content: 'from the shop' });
    const sent = await im.post('/message/send', { channel_id: 'bob', channel_type: person, from_uid: 'shop', payload, client_msg_no: 'x1', header: { red_dot: 1 } });
    assert.equal(sent.code, 200);
    assert.equal(sent.body.data.message_seq, 1);
    await bob.receives('from the shop');
    const again = await im.post('/message/send', { channel_id: 'bob', channel_type: person, from_uid: 'shop', payload, client_msg_no: 'x1' });
    assert.equal(again.body.data.message_idstr, sent.body.data.message_idstr, 'a repetition is the same message');
    const batch = await im.post('/message/sendbatch', { from_uid: 'shop', subscribers: ['bob', 'carol'], payload });
    assert.deepEqual(batch.body.data, { fail_uids: [], reason: [] });
    const by = `channel_id=bob&channel_type=1&login_uid=shop`;
    assert.equal((await im.get(`/channel/max_message_seq?${by}`)).body.message_seq, 2);
    assert.equal((await im.get(`/channel/last_message?${by}`)).body.channel_id, 'bob');
    assert.equal((await im.post('/message', { login_uid: 'shop', channel_id: 'bob', channel_type: person, client_msg_no: 'x1' })).body.message_seq, 1);
    assert.deepEqual(await im.post('/message/recall', { login_uid: 'shop', channel_id: 'bob', channel_type: person, client_msg_no: 'x1' }), ok);
    assert.deepEqual((await im.post('/message', { login_uid: 'shop', channel_id: 'bob', channel_type: person, client_msg_no: 'x1' })).body, { status: 404 });
    for (let seq = 3; seq < 53; seq++) { // what was answered can be read
      const { body } = await im.post('/message/send', { channel_id: 'bob', channel_type: person, from_uid: 'shop', payload });
      assert.equal(body.data.message_seq, seq);
      const newest = await im.get(`/channel/last_message?${by}`);
      assert.equal(newest.body.message_seq, seq, 'right after the answer');
    }
    const online = await im.post('/user/onlinestatus', ['bob', 'nobody']);
    assert.deepEqual(online.body, [{ uid: 'bob', device_flag: 1, online: 1 }]);
    assert.equal((await im.get('/connz?uid=bob')).body.connections[0].uid, 'bob');
    const bad = await im.post('/message/send', { channel_id: 'a@b', channel_type: group, payload });
    assert.equal((await im.post('/message/send', { channel_id: 'bob', channel_type: person })).code, 400);
    assert.ok(bad.code === 200 || bad.code === 400);
  });

  it('tells the application of connections, tags and the node', async (t) => {
    const im = await startIM(t);
    const alice = await new User(t, im.ws, 'alice').connected();
    const bob = await new User(t, im.ws, 'bob').connected();
    await im.post('/channel', { channel_id: 'g', channel_type: group, subscribers: ['alice', 'bob', 'carol'] });
    await alice.send('hi', 'g', group);
    await bob.receives('hi'); // the members are found when it is delivered
    const { body: varz } = await im.get('/varz?show=conn&conn_limit=1');
    assert.deepEqual(Object.keys(varz).sort(), [
      ...['api_url', 'commit', 'commit_date', 'connections', 'conns', 'conversation_cache_count', 'cpu', 'goroutine', 'in_bytes'],
      ...['in_msgs', 'manager_addr', 'manager_on', 'manager_token_on', 'manager_uid', 'mem', 'out_bytes', 'out_msgs', 'retry_queue'],
      ...['server_id', 'server_name', 'slow_clients', 'tcp_addr', 'tree_state', 'uptime', 'user_handler_conn_count'],
      ...['user_handler_count', 'version', 'ws_addr', 'wss_addr'],
    ]);
    assert.deepEqual([varz.connections, varz.user_handler_count, varz.manager_token_on, varz.manager_uid], [2, 2, 1, '____manager']);
    assert.deepEqual(varz.conns.map((c) => c.uid), ['alice'], 'who sent most comes first');

    const { body: connz } = await im.get('/connz?sort=inMsgDesc');
    assert.deepEqual(Object.keys(connz.connections[0]).sort(), [
      ...['device', 'device_id', 'id', 'idle', 'in_msg_bytes', 'in_msgs', 'in_packet_bytes', 'in_packets', 'ip', 'last_activity'],
      ...['leader_id', 'node_id', 'out_msg_bytes', 'out_msgs', 'out_packet_bytes', 'out_packets', 'pending_bytes', 'port'],
      ...['proxy_type_format', 'uid', 'uptime', 'version'],
    ]);
    assert.equal(typeof connz.connections[0].port, 'number');
    const order = async (sort) => (await im.get(`/connz?sort=${sort}`)).body.connections.map((c) => c.uid).join();
    assert.deepEqual([await order('inMsg'), await order('inMsgDesc'), await order('idDesc')], ['bob,alice', 'alice,bob', 'bob,alice']);
    assert.equal((await im.get('/connz?sort=color')).code, 400);
    const self = varz.server_id;
    assert.equal((await im.get(`/connz?node_id=${self}`)).code, 200);
    for (const route of ['connz', 'varz', 'tags']) assert.equal((await im.get(`/${route}?node_id=${Number(self) + 1}`)).code, 400);

    const { body: tag } = await im.get('/tag?channel_id=g&channel_type=2');
    const { created_at, ...rest } = tag;
    assert.match(created_at, /^\d{4}-\d\d-\d\d \d\d:\d\d$/);
    const [{ leader_id, slot_ids, ...node }] = rest.nodes;
    assert.deepEqual([String(leader_id), slot_ids.length, node], [self, 1, { uid_count: 2, uids: ['alice', 'bob'] }]);
    assert.deepEqual({ ...rest, nodes: [] }, {
      key: '2:g', channel_id: 'g', channel_type: group, nodes: [], expire_at: '', last_get_at: '', node_version: 0, get_count: 0,
    });
    assert.deepEqual((await im.get('/tag?tag_key=2:g')).body, tag);
    assert.deepEqual((await im.get('/tags')).body, [tag]);
    assert.deepEqual(await im.get('/tag?channel_id=nobody&channel_type=2'), { code: 400, body: { msg: 'tag not found', status: 400 } });
    assert.deepEqual(await im.post('/tag/remove', { tag_key: '2:g' }), ok);
    assert.deepEqual((await im.get('/tags')).body, []);
    await alice.send('again', 'g', group);
    await bob.receives('again');
    assert.deepEqual((await im.get('/tags?channel_id=g&channel_type=2')).body[0].nodes[0].uids, ['alice', 'bob'], 'it is found anew');
    assert.equal((await im.get('/migrate/result')).body.status, 'completed');
  });

  it('lets managers log in', async (t) => {
    const secret = 's'.repeat(32);
    const im = await startIM(t, {}, { console: { users: ['root:pass:*', 'guest:guest:[*:r]', 'op:pass:[slots:rw]'], session_secret: secret } });
    const login = async (username, password) => {
      const response = await fetch(`${im.api}/manager/login`, { method: 'POST', body: JSON.stringify({ username, password }) });
      return { code: response.status, body: await response.json() };
    };
    const as = async (token, method, route, body) =>
      (await fetch(im.api + route, { method, headers: { Authorization: `Bearer ${token}` }, body })).status;
    const root = await login('root', 'pass');
    const { token, exp, ...rest } = root.body;
    assert.deepEqual([root.code, rest], [200, { username: 'root', permissions: '*:rw' }]);
    const claims = JSON.parse(Buffer.from(token.split('.')[1], 'base64url'));
    assert.deepEqual(Object.keys(claims).sort(), ['exp', 'iat', 'iss', 'username']);
    assert.equal(claims.exp, exp);
    assert.ok(Math.abs(exp - Date.now() / 1000 - 30 * 86400) < 60);
    const systems = JSON.stringify({ uids: ['s'] });
    assert.equal(await as(token, 'POST', '/user/systemuids_add', systems), 200);
    const guest = (await login('guest', 'guest')).body;
    assert.equal(guest.permissions, '*:r');
    assert.equal(await as(guest.token, 'GET', '/user/systemuids'), 200);
    assert.equal(await as(guest.token, 'POST', '/user/systemuids_add', systems), 403);
    assert.equal(await as((await login('op', 'pass')).body.token, 'GET', '/user/systemuids'), 403);
    assert.equal((await login('____manager', im.token)).body.permissions, '*:rw');
    const forged = [Buffer.from('{"alg":"none"}').toString('base64url'), token.split('.')[1], ''].join('.');
    for (const bad of [forged, `${token}x`, token.slice(0, -4), '']) assert.equal(await as(bad, 'GET', '/user/systemuids'), 401);
    const later = await startIM(t, {}, { console: { users: ['root:another:*', 'guest:guest:[*:r]'], session_secret: secret } });
    const there = async (token) => (await fetch(`${later.api}/user/systemuids`, { headers: { Authorization: `Bearer ${token}` } })).status;
    assert.deepEqual([await there(guest.token), await there(token)], [200, 401], 'another password ends the sessions');
    for (const [name, password] of [['root', 'wrong'], ['nobody', ''], ['root', ''], ['____manager', '']]) {
      assert.deepEqual(await login(name, password), { code: 400, body: { msg: 'username or password is wrong', status: 400 } });
    }
    for (let i = 0; i < 20; i++) await login('root', 'guess');
    assert.match((await login('root', 'pass')).body.msg, /too many/);
  });

  it('ends the connections that a master device replaces', async (t) => {
    const im = await startIM(t, { token_auth: true });
    const token = (level) => im.post('/user/token', { uid: 'alice', token: 't', device_flag: 1, device_level: level });
    await token(1);
    const first = await new User(t, im.ws, 'alice', 't').connected();
    const second = await new User(t, im.ws, 'alice', 't').connected();
    await eventually(() => first.states.some(([state, reason]) => state === 4 && reason === 12), 'the first is told to go');
    await im.post('/user/device_quit', { uid: 'alice', device_flag: -1 });
    await eventually(() => second.states.some(([state]) => state === 4), 'the second is told to go');
  });

  it('lets clients subscribe to live channels without being members', async (t) => {
    const im = await startIM(t);
    const alice = await new User(t, im.ws, 'alice').connected();
    const bob = await new User(t, im.ws, 'bob').connected();
    const heard = alice.subscribe('news?a=1');
    await eventually(() => heard.answers.length > 0, 'an answer');
    assert.deepEqual(heard.answers, [success]);
    assert.equal((await bob.send('live', 'news', 7)).reason, success);
    await eventually(() => heard.texts.includes('live'), 'it is heard');
  });

  it('speaks JSON-RPC on the same port', async (t) => {
    const im = await startIM(t);
    const bob = await new User(t, im.ws, 'bob').connected();
    const rpc = await RPC.open(t, im.ws);
    const connack = await rpc.request('connect', { uid: 'rita', token: 't', deviceId: 'd', deviceFlag: 1, clientTimestamp: Date.now() });
    assert.equal(connack.result.reasonCode, success);
    assert.equal(connack.result.serverKey, '');
    const payload = base64({ type: 1, content: 'over rpc' });
    const ack = await rpc.request('send', { channelId: 'bob', channelType: person, payload, clientMsgNo: 'c', header: { redDot: true } });
    assert.deepEqual([ack.result.reasonCode, ack.result.messageSeq], [success, 1]);
    assert.equal((await bob.receives('over rpc')).id, ack.result.messageId);
    await bob.send('back', 'rita');
    await eventually(() => rpc.notifications.length > 0, 'a notification');
    const { method, params } = rpc.notifications[0];
    assert.equal(method, 'recv');
    assert.deepEqual([params.fromUid, params.channelId, params.messageSeq], ['bob', 'bob', 2]);
    assert.equal(JSON.parse(Buffer.from(params.payload, 'base64')).content, 'back');
    rpc.notify('recvack', { messageId: params.messageId, messageSeq: params.messageSeq });
    assert.equal((await rpc.request('ping')).result, undefined);
    assert.match((await rpc.request('dance')).error.message, /unknown method/);
  });

  it('serves WebSocket with TLS on a port of its own', async (t) => {
    const certificate = await makeCertificate();
    t.after(() => certificate.remove());
    const wss_port = await freePort();
    const files = { wss_cert_file: certificate.files.cert_file, wss_key_file: certificate.files.key_file };
    const im = await startIM(t, { wss_port, ...files });
    const address = (await im.get('/route?uid=alice')).body.wss_addr;
    assert.equal(address, `wss://127.0.0.1:${wss_port}`);
    trust(certificate.pem);
    const alice = await new User(t, address, 'alice').connected();
    const bob = await new User(t, im.ws, 'bob').connected();
    assert.equal((await alice.send('over TLS', 'bob')).reason, success);
    await bob.receives('over TLS');
    for (let i = 0; i < 100; i++) bob.post(`n${i} ${'x'.repeat(1000)}`, 'alice');
    await alice.receives(`n99 ${'x'.repeat(1000)}`);
    assert.deepEqual(alice.received.map((m) => m.text.split(' ')[0]), Array.from({ length: 100 }, (_, i) => `n${i}`));
    const rpc = await RPC.open(t, address, { ca: certificate.pem });
    const connack = await rpc.request('connect', { uid: 'rita', token: 't', deviceId: 'd', deviceFlag: 1, clientTimestamp: Date.now() });
    assert.equal(connack.result.reasonCode, success);
    await assert.rejects(RPC.open(t, address), /self-signed/, 'the certificate is the one of the files');
    await assert.rejects(RPC.open(t, address.replace('wss:', 'ws:')), 'TLS is required on that port');
  });

  it('asks the datasource for what nobody has told of', async (t) => {
    const asked = [];
    const info = { closed: { large: 0, ban: 1, disband: 0 } };
    const answers = { getSystemUIDs: ['root'], getSubscribers: ['alice', 'bob'], getBlacklist: ['bob'], getWhitelist: [] };
    const site = await listen(async (request, response) => {
      const { cmd, data } = JSON.parse(await readBody(request));
      asked.push(`${cmd} ${data.channel_id ?? ''}`);
      const answer = answers[cmd] ?? info[data.channel_id];
      if (!answer) response.statusCode = 404; // as one that has no getChannelInfo
      response.end(JSON.stringify(answer ?? {}));
    });
    t.after(() => site.close());
    const im = await startIM(t, { datasource_url: site.url });
    const [alice, bob, eve, root] = await Promise.all(['alice', 'bob', 'eve', 'root'].map((uid) => new User(t, im.ws, uid).connected()));
    assert.equal((await alice.send('hi', 'old', group)).reason, success);
    await bob.receives('hi');
    assert.equal((await bob.send('no', 'old', group)).reason, 4);
    assert.equal((await eve.send('no', 'old', group)).reason, 3);
    assert.equal((await root.send('I may', 'old', group)).reason, success);
    assert.equal(asked.filter((question) => question === 'getSubscribers old').length, 1, 'it is asked once');
    assert.ok(!asked.includes('getChannelInfo old'), 'it is not asked for flags');
    const other = await startIM(t, { datasource_url: site.url, datasource_channel_info: true });
    const member = await new User(t, other.ws, 'alice').connected();
    assert.equal((await member.send('no', 'closed', group)).reason, 19);
    assert.equal((await im.get('/varz')).body.connections, 4);
  });

  it('removes what need not be kept, and goes on numbering', async (t) => {
    const im = await startIM(t, { retention: ['2:0:3:0'], retention_interval: '100ms' });
    const alice = await new User(t, im.ws, 'alice').connected();
    for (const id of ['short', 'longer']) await im.post('/channel', { channel_id: id, channel_type: group, subscribers: ['alice'] });
    await im.post('/channel/info', { channel_id: 'longer', channel_type: group, keep_count: 5 });
    for (let i = 1; i <= 10; i++) for (const id of ['short', 'longer']) assert.equal((await alice.send(`m${i}`, id, group)).seq, i);
    const kept = async (channel_id) => (await im.post('/channel/messagesync', { login_uid: 'alice', channel_id, channel_type: group, limit: 100 }))
      .body.messages.map((m) => m.message_seq).join();
    await eventually(async () => (await kept('short')) === '8,9,10' && (await kept('longer')) === '6,7,8,9,10', 'old messages are gone');
    await im.server.kill();
    rmSync(path.join(im.server.config.node.data_dir, 'im-index'), { recursive: true }); // it is made anew
    await im.server.start();
    assert.equal(await kept('short'), '8,9,10');
    // By itself: a second connect() would have two connections replace each other.
    await eventually(() => alice.states.filter(([state]) => state === 1).length === 2, 'alice is back');
    assert.equal((await alice.send('m11', 'short', group)).seq, 11);
    assert.deepEqual(await im.post('/channel/delete', { channel_id: 'short', channel_type: group }), ok);
    await eventually(async () => (await kept('short')) === '', 'nothing is left');
  });

  it('shortens a channel by its own limit alone', async (t) => {
    const im = await startIM(t, { retention_interval: '100ms' });
    const alice = await new User(t, im.ws, 'alice').connected();
    for (const id of ['short', 'all']) await im.post('/channel', { channel_id: id, channel_type: group, subscribers: ['alice'] });
    for (let i = 1; i <= 5; i++) for (const id of ['short', 'all']) await alice.send(`m${i}`, id, group);
    const kept = async (channel_id) => (await im.post('/channel/messagesync', { login_uid: 'alice', channel_id, channel_type: group, limit: 100 }))
      .body.messages.map((m) => m.message_seq).join();
    for (const id of ['short', 'all']) await eventually(async () => (await kept(id)) === '1,2,3,4,5', 'all can be read');
    await im.post('/channel/info', { channel_id: 'short', channel_type: group, keep_count: 2 });
    await eventually(async () => (await kept('short')) === '4,5', 'old messages are gone');
    assert.equal(await kept('all'), '1,2,3,4,5');
  });

  it('keeps everything over kill -9', async (t) => {
    const im = await startIM(t);
    const alice = await new User(t, im.ws, 'alice').connected();
    for (let i = 1; i <= 20; i++) assert.equal((await alice.send(`m${i}`, 'bob')).seq, i);
    await im.server.kill();
    await im.server.start();
    const { body } = await im.post('/channel/messagesync', { login_uid: 'bob', channel_id: 'alice', channel_type: person, limit: 100 });
    assert.deepEqual(body.messages.map((m) => m.message_seq), Array.from({ length: 20 }, (_, i) => i + 1));
  });

  it('answers bad requests with what is wrong, and takes large ones', async (t) => {
    const im = await startIM(t);
    const sync = (body) => im.post('/channel/messagesync', { login_uid: 'a', channel_id: 'g', channel_type: group, ...body });
    const raw = await fetch(`${im.api}/channel`, { method: 'POST', headers: { token: im.token }, body: '{' });
    assert.equal(raw.status, 400);
    for (const request of [
      sync({ start_message_seq: -1 }),
      sync({ channel_id: 'x'.repeat(10_000) }),
      sync({ channel_type: 200 }),
      im.post('/user/token', { uid: 'a@b', token: 't' }),
      im.post('/user/token', { uid: 'a____cmd', token: 't' }),
      im.post('/channel', { channel_id: 'g', channel_type: group, subscribers: ['a&b'] }),
      im.post('/conversations/setUnread', { uid: 'a', channel_id: 'g', channel_type: group, unread: -5 }),
      im.post('/message/send', { channel_id: 'g', channel_type: group, payload: 'no base64!' }),
    ]) {
      const { code, body } = await request;
      assert.equal(code, 400, JSON.stringify(body));
      assert.ok(body.msg.length > 0 && body.status === 400);
    }
    const huge = await sync({ start_message_seq: 18_446_744_073_709_552_000 - 4096, pull_mode: 1, limit: 1_000_000_000, nobody_knows: true });
    assert.deepEqual(huge.body.messages ?? [], []);
    assert.deepEqual((await im.post('/conversation/sync', { uid: 'a', msg_count: 1, page: 9e15, page_size: 1e9 })).body, []);
    const many = Array.from({ length: 100_000 }, (_, i) => `member-${i}`);
    assert.deepEqual(await im.post('/channel', { channel_id: 'many', channel_type: group, subscribers: many }), ok);
    const last = await new User(t, im.ws, 'member-99999').connected();
    assert.equal((await last.send('I am in', 'many', group)).reason, success);
  });

  it('answers bad input by ending that connection alone', async (t) => {
    const im = await startIM(t);
    const bob = await new User(t, im.ws, 'bob').connected();
    for (const bytes of [
      [0x30, 0x80, 0x80, 0x80, 0x80, 0x80], // a length that never ends
      [0x10, 0xff, 0xff, 0xff, 0x7f], // over 1 MiB
      [0x10, 0x03, 0x05, 0x00, 0x00], // a CONNECT that ends too early
      [0xd0, 0x01, 0x00], // no such type
      [0x70], // a PING before the CONNECT
    ]) {
      const socket = net.connect(im.tcpPort, '127.0.0.1', () => socket.write(Buffer.from(bytes)));
      t.after(() => socket.destroy());
      await new Promise((resolve) => socket.once('close', resolve).once('error', resolve));
    }
    assert.equal((await bob.send('still here', 'carol')).reason, success);
  });
});

describe('messaging under floods', { concurrency: 2 }, () => {
  const login = (uid) => ({ uid, token: 't', deviceId: uid, deviceFlag: 1, clientTimestamp: Date.now() });
  const dropped = async (im, reason) => {
    const text = await (await fetch(`http://127.0.0.1:${im.server.config.metrics.port}/metrics`)).text();
    return Number(text.match(new RegExp(`parley_dropped_total\\{[^}]*reason="${reason}"[^}]*\\} (\\d+)`))?.[1] ?? 0);
  };

  it('refuses what a connection sends too fast, and stores nothing of it', async (t) => {
    const im = await startIM(t, { send_rate: 20, send_burst: 50, packet_rate: 0 });
    const flooder = await RPC.open(t, im.ws);
    await flooder.request('connect', login('flo'));
    const other = await new User(t, im.ws, 'olga').connected();
    const peer = await new User(t, im.ws, 'peer').connected();
    const total = 5000;
    const reasons = [];
    const began = performance.now();
    flooder.socket.on('message', (data) => {
      const { id, result } = JSON.parse(data);
      if (id?.startsWith('f')) reasons.push(result.reasonCode);
    });
    for (let i = 0; i < total; i++) {
      const params = { channelId: 'peer', channelType: person, clientMsgNo: `f${i}`, payload: base64({ type: 1, content: `f${i}` }) };
      flooder.socket.send(JSON.stringify({ method: 'send', id: `f${i}`, params }));
    }
    for (let i = 0; i < 20; i++) assert.equal((await other.send(`o${i}`, 'peer')).reason, success, 'others are not refused');
    await peer.receives('o19');
    await eventually(() => reasons.length === total, 'every message is answered');
    const seconds = (performance.now() - began) / 1000;
    const stored = reasons.filter((reason) => reason === success).length;
    assert.ok(stored >= 50 && stored <= 50 + 20 * seconds + 1, `${stored} were taken in ${seconds} s`);
    assert.equal(reasons.filter((reason) => reason === 22).length, total - stored);
    const delivered = () => new Set(peer.received.filter((m) => m.from === 'flo').map((m) => m.seq)).size;
    await eventually(() => delivered() >= stored, 'what was taken is delivered'); // and can be read from then on
    assert.equal((await im.get('/channel/max_message_seq?channel_id=peer&channel_type=1&login_uid=flo')).body.message_seq, stored);
    assert.equal(await dropped(im, 'im_send_rate'), total - stored);
    await flooder.request('ping'); // it is still served
  });

  it('ends a connection that sends too many packets', async (t) => {
    const im = await startIM(t, { packet_rate: 500 });
    const other = await new User(t, im.ws, 'olga').connected();
    const pinger = await RPC.open(t, im.ws);
    await pinger.request('connect', login('pia'));
    const closed = new Promise((resolve) => pinger.socket.once('close', resolve));
    for (let i = 0; i < 20_000; i++) pinger.notify('ping');
    await closed;
    assert.equal(await dropped(im, 'im_packet_rate'), 1);
    assert.equal((await other.send('still here', 'peer')).reason, success);
  });

  it('lets a client confirm as much as it was sent', async (t) => {
    const im = await startIM(t, { packet_rate: 5, send_rate: 0 });
    const bob = await new User(t, im.ws, 'bob').connected();
    for (let i = 0; i < 300; i++) {
      const payload = base64({ type: 1, content: `n${i}` });
      await im.post('/message/send', { channel_id: 'bob', channel_type: person, from_uid: 'shop', payload });
    }
    await bob.receives('n299');
    assert.equal((await bob.send('here', 'shop')).reason, success);
    assert.equal(await dropped(im, 'im_packet_rate'), 0);
  });

  it('has no limit when it is to have none', async (t) => {
    const im = await startIM(t, { send_rate: 0, send_burst: 1, packet_rate: 0 });
    const alice = await new User(t, im.ws, 'alice').connected();
    for (let i = 0; i < 500; i++) alice.post(`n${i}`, 'bob');
    await eventually(() => alice.acks.length === 500, 'all are answered');
    assert.ok(alice.acks.every((a) => a.reason === success));
  });
});

describe('messaging tells the application', { concurrency: 2 }, () => {
  const secret = 'secret-of-webhooks';

  it('of large messages as well', async (t) => {
    const { im, of } = await told(t);
    for (const client_msg_no of ['a', 'b', 'c']) {
      const payload = base64({ type: 1, content: 'x'.repeat(200_000) });
      assert.equal((await im.post('/message/send', { channel_id: 'bob', channel_type: person, from_uid: 'shop', payload, client_msg_no })).code, 200);
    }
    await im.post('/message/send', { channel_id: 'bob', channel_type: person, from_uid: 'shop', payload: base64('x'.repeat(450_000)), client_msg_no: 'd' });
    const seqs = () => of('msg.notify').flatMap((r) => r.json).map((m) => m.message_seq).sort().join();
    await eventually(() => seqs() === '1,2,3,4', 'all are told');
    const many = Array.from({ length: 60_000 }, (_, i) => `user-${i}`);
    const refused = await im.post('/message/send', { subscribers: many, payload: base64('x'), header: { sync_once: 1 } });
    assert.equal(refused.code, 400, 'what no log carries is refused at once');
  });

  it('lists what was given up, and sends it again', async (t) => {
    let refuse = true;
    const { im, of } = await told(t, () => (refuse ? 500 : 200), { webhooks: { retry_elapsed: '1ms' } });
    const alice = await new User(t, im.ws, 'alice').connected();
    await alice.send('hi', 'bob');
    const letters = async () => (await im.get('/webhook/deadletters')).body.filter((l) => l.event === 'msg.notify');
    await eventually(async () => (await letters()).length === 1, 'a dead letter');
    refuse = false;
    assert.deepEqual(await im.post('/webhook/replay', { id: (await letters())[0].id }), ok);
    await eventually(() => of('msg.notify').length === 1, 'it is told');
    assert.deepEqual(await letters(), []);
  });

  it('over gRPC instead, if it is to', async (t) => {
    const calls = [];
    const address = await startWebhookService(t, (call, about) => {
      calls.push({ event: call.event, body: String(call.data), about: about.getMap() });
      return calls.length > 1 ? { status: 'Success' } : { status: 'Error' };
    });
    const { im, of } = await told(t, () => 200, {}, { webhook_grpc_addr: address, webhook_events: ['msg.notify'] });
    const alice = await new User(t, im.ws, 'alice').connected();
    await alice.send('hi', 'bob');
    await eventually(() => calls.length === 2, 'the message is told again after it was not taken');
    assert.deepEqual(calls[0], calls[1]);
    assert.equal(calls[0].event, 'msg.notify');
    assert.deepEqual(JSON.parse(calls[0].body).map((m) => [m.channel_id, m.from_uid, m.message_seq]), [['bob', 'alice', 1]]);
    assert.equal(calls[0].about['x-parley-signature'], createHmac('sha256', secret).update(calls[0].body).digest('hex'));
    assert.deepEqual(of('msg.notify'), [], 'nothing is told over HTTP');
  });

  it('of what agents are sent, at a place of its own', async (t) => {
    const agents = await startReceiver(() => 200);
    t.after(() => agents.close());
    const { im, of } = await told(t, () => 200, {}, { agent_webhook_url: agents.url });
    const alice = await new User(t, im.ws, 'alice').connected();
    assert.equal((await alice.send('hi', 'bob')).reason, success);
    assert.equal((await alice.send('hi robot', 'alice@robot', 11)).reason, success);
    const request = await agents.requests.take();
    assert.equal(request.path, '/?event=msg.notify');
    assert.deepEqual(JSON.parse(request.rawBody).map((m) => [m.channel_id, m.channel_type]), [['alice@robot', 11]]);
    const rows = () => of('msg.notify').flatMap((r) => r.json).map((m) => m.channel_id).sort().join();
    await eventually(() => rows() === 'alice@robot,bob', 'the application is told of both');
    await eventually(() => of('msg.offline').length > 0, 'who is away is told');
    const [offline] = of('msg.offline');
    assert.deepEqual([offline.json.channel_id, offline.json.to_uids], ['bob', ['bob']]);
    assert.equal(String(offline.json.source_id), (await im.get('/varz')).body.server_id);
  });

  async function told(t, answer = () => 200, config = {}, more = {}) {
    const taken = [];
    const hooks = await startReceiver((request) => {
      const status = answer();
      if (status === 200) taken.push({ ...request, json: JSON.parse(request.rawBody) });
      return status;
    });
    t.after(() => hooks.close());
    const im = await startIM(t, { webhook_url: `${hooks.url}/?from=parley`, webhook_secret: secret, webhook_interval: '20ms', ...more }, config);
    return { im, of: (event) => taken.filter((r) => r.path === `/?event=${event}&from=parley`) };
  }

  it('of messages, of those who are away, of logins', async (t) => {
    const { im, of } = await told(t);
    const alice = await new User(t, im.ws, 'alice').connected();
    await im.post('/channel', { channel_id: 'g', channel_type: group, subscribers: ['alice', 'bob', 'carol'] });
    const bob = await new User(t, im.ws, 'bob').connected();
    await alice.send('hi all', 'g', group);
    await bob.receives('hi all');
    await eventually(() => of('msg.notify').length > 0, 'the message is told');
    const [notify] = of('msg.notify');
    assert.deepEqual(notify.json.map((m) => [m.channel_id, m.from_uid, m.message_seq]), [['g', 'alice', 1]]);
    assert.equal(notify.headers['x-parley-signature'], createHmac('sha256', secret).update(notify.rawBody).digest('hex'));
    await eventually(() => of('msg.offline').length > 0, 'who is away is told');
    assert.deepEqual(of('msg.offline')[0].json.to_uids, ['carol']);
    await eventually(() => of('user.onlinestatus').some((r) => r.json.length > 0), 'logins are told');
    bob.disconnect();
    const texts = () => of('user.onlinestatus').flatMap((r) => r.json).map((text) => text.split('-').slice(0, 3).join('-'));
    await eventually(() => texts().includes('bob-1-0'), 'the logout is told');
    assert.ok(texts().includes('alice-1-1') && texts().includes('bob-1-1'));
    assert.deepEqual((await im.get('/webhook/deadletters')).body, []);
  });

  it('until it has taken it, also over kill -9', async (t) => {
    let refuse = true;
    const { im, of } = await told(t, () => (refuse ? 503 : 200));
    const alice = await new User(t, im.ws, 'alice').connected();
    for (const text of ['1', '2', '3']) await alice.send(text, 'bob');
    await im.server.kill();
    refuse = false;
    await im.server.start();
    const seqs = () => [...new Set(of('msg.notify').flatMap((r) => r.json).map((m) => m.message_seq))].sort();
    await eventually(() => seqs().join() === '1,2,3', 'all three are told', 120_000);
  });
});
