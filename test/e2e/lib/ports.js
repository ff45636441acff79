import net from 'node:net';
import { randomInt } from 'node:crypto';

// Below the range that operating systems take for outgoing connections, so that no client
// of a test can sit on a port that a server is about to bind.
const firstPort = 20_000;
const lastPort = 32_000;

const isFree = (port) =>
  new Promise((resolve) => {
    const probe = net.createServer();
    probe.once('error', () => resolve(false));
    probe.listen(port, '127.0.0.1', () => probe.close(() => resolve(true)));
  });

const given = new Set();

/** Returns a TCP port of 127.0.0.1 that nobody listens on, each time another one. */
export async function freePort() {
  for (let tries = 0; tries < 100; tries++) {
    const port = randomInt(firstPort, lastPort);
    if (given.has(port)) continue;
    given.add(port);
    if (await isFree(port)) return port;
  }
  throw new Error(`no free port between ${firstPort} and ${lastPort}`);
}
