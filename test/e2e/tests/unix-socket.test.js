import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import { it } from 'node:test';

import { backendOf, bodyOf } from '../lib/backend.js';
import { unique } from '../lib/clients.js';
import { connectRaw } from '../lib/raw.js';
import { startServer } from '../lib/server.js';

it('a Unix socket serves WebSocket connections and the HTTP API', async (t) => {
  const directory = await mkdtemp(path.join(os.tmpdir(), 'parley-e2e-unix-'));
  t.after(() => rm(directory, { recursive: true, force: true }));
  const socketPath = path.join(directory, 'parley.sock');
  const server = await startServer({ unix_socket: { path: socketPath } });
  t.after(() => server.close());

  const url = `ws+unix:${socketPath}:/app/${server.apps[0].key}?protocol=7`;
  const raw = await connectRaw(t, server, { url });
  const overTcp = await connectRaw(t, server);
  const channel = unique('news');
  await Promise.all([raw.subscribe(channel), overTcp.subscribe(channel)]);

  const agent = new http.Agent();
  const { createConnection } = agent;
  agent.createConnection = (options, callback) =>
    createConnection.call(agent, { path: socketPath }, callback);
  t.after(() => agent.destroy());
  const backend = backendOf(server, { agent, port: 1 }); // nobody listens on port 1
  assert.deepEqual(await bodyOf(backend.trigger(channel, 'hello', { n: 1 })), {});
  for (const client of [raw, overTcp]) {
    assert.equal((await client.event('hello')).data, '{"n":1}');
  }
});
