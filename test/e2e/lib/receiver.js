// Where webhooks are posted to.

import http from 'node:http';

import { Inbox } from './wait.js';

/** A request's body as text. */
export async function readBody(request) {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  return Buffer.concat(chunks).toString();
}

/** Starts a web server on a free port of 127.0.0.1 and returns it with its address. */
export async function listen(handle) {
  const server = http.createServer((request, response) => {
    handle(request, response).catch((error) => {
      response.statusCode = 500;
      response.end(String(error));
    });
  });
  await new Promise((resolve) => server.listen(0, '127.0.0.1', resolve));
  const close = () =>
    new Promise((resolve) => {
      server.close(resolve);
      server.closeAllConnections();
    });
  return { url: `http://127.0.0.1:${server.address().port}`, close };
}

/**
 * Starts a receiver of webhooks.
 *
 * @param {(request: object) => number} answer takes {path, method, headers, rawBody} and
 *   returns the status of the answer
 * @returns {Promise<{url: string, requests: Inbox, close: () => Promise<void>}>} requests
 *   holds every request with the status that it got, in order
 */
export async function startReceiver(answer) {
  const requests = new Inbox('webhook requests');
  const site = await listen(async (message, response) => {
    const { url: path, method, headers } = message;
    const request = { path, method, headers, rawBody: await readBody(message) };
    response.statusCode = answer(request);
    requests.push({ ...request, status: response.statusCode });
    response.end();
  });
  return { ...site, requests };
}
