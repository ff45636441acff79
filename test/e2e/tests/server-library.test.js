// The tests that the server library ships to be run against a server.

import { createRequire } from 'node:module';
import { after, before, beforeEach, describe, it } from 'node:test';

import { anApp, startServer } from '../lib/server.js';
import { patience } from '../lib/wait.js';

const require = createRequire(import.meta.url);
const app = anApp({ id: '3' }); // the library takes numbers only from an address

let server;
before(async () => {
  server = await startServer({ apps: [app] });
  const { key, secret, id } = app;
  process.env.PUSHER_URL = server.url.replace('://', `://${key}:${secret}@`) + `/apps/${id}`;
});
after(() => server?.close());

// They are written for a runner whose functions take a callback for their end.
const withCallback = (run) => () =>
  run.length === 0
    ? run()
    : new Promise((resolve, reject) => run((error) => (error ? reject(error) : resolve())));

globalThis.describe = describe;
globalThis.it = (name, run) => it(name, { timeout: patience }, withCallback(run));
globalThis.beforeEach = (run) => beforeEach(withCallback(run));

for (const name of ['get', 'trigger']) require(`pusher/tests/remote/pusher/${name}.js`);
