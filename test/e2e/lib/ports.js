import net from 'node:net';

// Below the range that operating systems take for outgoing connections, so that no client
// of a test can sit on a port that a server is about to bind.
const firstPort = 12_000;
const lastPort = 31_999;

// A process of tests takes a block of ports and listens on its first one as long as it lives. Others, and
// the tests in Go, see by that that the block is taken.
const blockSize = 200;
let next = 0;
let end = 0;

/** Listens on a port of 127.0.0.1; null when somebody else does. */
const listen = (port) =>
  new Promise((resolve) => {
    const server = net.createServer();
    server.once('error', () => resolve(null));
    server.listen(port, '127.0.0.1', () => resolve(server));
  });

const close = (server) => new Promise((resolve) => server.close(resolve));

async function takeBlock() {
  const count = Math.floor((lastPort + 1 - firstPort) / blockSize);
  const offset = Math.floor(Math.random() * count);
  for (let i = 0; i < count; i++) {
    const start = firstPort + ((offset + i) % count) * blockSize;
    const guard = await listen(start);
    if (!guard) continue;
    guard.unref();
    [next, end] = [start + 1, start + blockSize];
    return;
  }
  throw new Error(`no free ports between ${firstPort} and ${lastPort}`);
}

let taking = Promise.resolve();

async function takePort() {
  for (;;) {
    if (next === end) await takeBlock();
    const port = next++;
    const probe = await listen(port);
    if (!probe) continue;
    await close(probe);
    return port;
  }
}

/** Returns a TCP port of 127.0.0.1 that nobody listens on, each time another one. */
export function freePort() {
  taking = taking.then(takePort, takePort); // one after the other
  return taking;
}
