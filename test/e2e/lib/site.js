// The customer's web site: pages with pusher-js or laravel-echo, and the endpoints that
// their clients ask for signatures.

import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import path from 'node:path';

import { listen, readBody } from './receiver.js';

const require = createRequire(import.meta.url);
const libraries = {
  '/pusher.js': path.join(path.dirname(require.resolve('pusher-js')), '../web/pusher.min.js'),
  '/echo.js': path.join(path.dirname(require.resolve('laravel-echo')), 'echo.iife.js'),
};
const page = `<!doctype html><title>Parley</title>
<link rel="icon" href="data:,">
<script src="/pusher.js"></script><script src="/echo.js"></script>`;

/**
 * Starts a web site. `site.backend`, the server library, must be set before clients come.
 * Whoever posts `user=<id>` along with a request for a signature is that user; without one
 * nothing is signed.
 *
 * @returns {Promise<{url: string, backend: object, close: () => Promise<void>}>}
 */
export async function startSite() {
  const site = { backend: null };
  const { url, close } = await listen(async (request, response) => {
    const { pathname } = new URL(request.url, 'http://site');
    if (request.method === 'POST') {
      const form = new URLSearchParams(await readBody(request));
      answerForm(site.backend, pathname, form, response);
    } else if (libraries[pathname]) {
      response.setHeader('content-type', 'text/javascript; charset=utf-8');
      response.end(await readFile(libraries[pathname]));
    } else {
      response.setHeader('content-type', 'text/html; charset=utf-8');
      response.end(page);
    }
  });
  return Object.assign(site, { url, close });
}

function answerForm(backend, pathname, form, response) {
  const id = form.get('user');
  const socketId = form.get('socket_id');
  if (!id) {
    response.statusCode = 403;
    response.end('Who are you?');
    return;
  }
  const info = { name: id.toUpperCase() };
  const answer = pathname.endsWith('/user-auth')
    ? backend.authenticateUser(socketId, { id, user_info: info })
    : backend.authorizeChannel(socketId, form.get('channel_name'), {
        user_id: id,
        user_info: info,
      });
  response.setHeader('content-type', 'application/json');
  response.end(JSON.stringify(answer));
}
