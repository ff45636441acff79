// Users of the real client talk through a balancer while one node is killed:
//   node im-chat.js <ws url, or "route" to ask the API> <api url> <host:port of TCP> <process id of the node> <its own api url>
// IM_TOKEN is the token of the API, if it asks for one. It ends with an error when something is not as
// it should be.

import assert from 'node:assert/strict';
import net from 'node:net';

import { imOf, User } from './im.js';
import { eventually } from './wait.js';

const [given, api, tcp, pid, victim] = process.argv.slice(2);
const t = { after: () => {} };
const im = { ...imOf({}, ''), api };
const headers = { 'Content-Type': 'application/json', token: process.env.IM_TOKEN ?? '' };
im.post = async (route, body) => (await fetch(api + route, { method: 'POST', headers, body: JSON.stringify(body) })).json();
let ws = given;
if (given === 'route') {
  const told = await (await fetch(`${api}/route?uid=anna`, { headers })).json();
  assert.equal(told.tcp_addr, tcp);
  ws = told.ws_addr;
}

const uids = ['anna', 'ben', 'carl', 'dora', 'emil', 'fay'];
assert.deepEqual(await im.post('/channel', { channel_id: 'g', channel_type: 2, subscribers: uids }), { status: 200 });
const users = [];
for (const uid of uids) users.push(await new User(t, ws, uid).connected());

// Each to the next, of whom some are at other nodes.
for (const [i, user] of users.entries()) {
  const next = users[(i + 1) % users.length];
  const ack = await user.send(`from ${user.uid}`, next.uid);
  assert.deepEqual([ack.reason, ack.seq], [1, 1]);
  const got = await next.receives(`from ${user.uid}`);
  assert.deepEqual([got.channel, got.type, got.id], [user.uid, 1, ack.id]);
}
for (const user of users) user.received = []; // what follows is in the group

// TCP through the stream part, which puts a PROXY header in front: an answer shows that it is read.
await new Promise((resolve, reject) => {
  const [host, port] = tcp.split(':');
  const socket = net.connect(Number(port), host, () => socket.write('{"method":"connect","id":"1","params":{"uid":"tom","token":"","deviceFlag":0}}\n'));
  socket.once('data', (data) => (/"reasonCode":1/.test(data) ? resolve() : reject(new Error(String(data)))));
  socket.once('error', reject);
  socket.once('close', () => reject(new Error('closed')));
});

let sent = 0;
const say = async (user) => {
  const text = `m${++sent}`;
  const ack = await user.send(text, 'g', 2);
  assert.equal(ack.reason, 1);
  assert.equal(ack.seq, sent);
  return text;
};
for (let i = 0; i < 30; i++) {
  const text = await say(users[i % users.length]);
  await Promise.all(users.filter((u) => u !== users[i % users.length]).map((u) => u.receives(text)));
}
// Who is on that node comes back through the balancer: the client tries again after 3 s.
const { connections } = await (await fetch(`${victim}/connz?limit=100`, { headers })).json();
const lost = users.filter((u) => connections.some((c) => c.uid === u.uid));
const stayed = users.filter((u) => !lost.includes(u));
const connects = (u) => u.states.filter(([state]) => state === 1).length;
const before = new Map(users.map((u) => [u, connects(u)]));
process.kill(Number(pid), 'SIGKILL');
await eventually(() => lost.every((u) => connects(u) > before.get(u) && u.states.at(-1)[0] === 1), 'who was there is connected again', 60_000);
for (const u of stayed) assert.deepEqual([connects(u), u.states.at(-1)[0]], [before.get(u), 1], 'survivors stay connected');
for (let i = 0; i < 20; i++) {
  const text = await say(users[i % users.length]);
  await Promise.all(users.filter((u) => u !== users[i % users.length]).map((u) => u.receives(text)));
}
const page = await im.post('/channel/messagesync', { login_uid: 'anna', channel_id: 'g', channel_type: 2, limit: 100, pull_mode: 1 });
assert.deepEqual(page.messages.map((m) => m.message_seq), Array.from({ length: sent }, (_, i) => i + 1));
for (const u of stayed) {
  const seqs = u.received.map((m) => m.seq);
  assert.equal(new Set(seqs).size, seqs.length, 'each message once');
}
console.log(`${sent} messages, ${lost.length} of ${users.length} clients came back, ${stayed.length} stayed`);
process.exit();
