// The customer's backend: the server library, and what it signs for clients.

import PusherServer from 'pusher';

/** The key that encrypted channels are sealed with. */
const encryptionMasterKeyBase64 = Buffer.alloc(32, 'parley').toString('base64');

/**
 * Returns the server library, set up for an app.
 *
 * @param {import('./server.js').Server} server
 * @param {object} options of the library; `app` chooses the app
 */
export function backendOf(server, { app = server.apps[0], ...options } = {}) {
  return new PusherServer({
    appId: app.id,
    key: app.key,
    secret: app.secret,
    host: server.host,
    port: server.port,
    useTLS: server.tls,
    encryptionMasterKeyBase64,
    ...options,
  });
}

/**
 * Returns options of pusher-js that let a backend in this process sign.
 *
 * @param {PusherServer} backend
 * @param {object} identity `member` is the channel_data of every subscription, `user` the
 *   user_data of the sign-in; both are optional
 */
export function signedBy(backend, { member, user } = {}) {
  const answer = (callback, sign) => {
    try {
      callback(null, sign());
    } catch (error) {
      callback(error, null);
    }
  };
  return {
    channelAuthorization: {
      customHandler: ({ channelName, socketId }, callback) =>
        answer(callback, () => backend.authorizeChannel(socketId, channelName, member)),
    },
    userAuthentication: {
      customHandler: ({ socketId }, callback) =>
        answer(callback, () => backend.authenticateUser(socketId, user)),
    },
  };
}

/** The JSON body of a response of the server library. */
export const bodyOf = async (request) => (await request).json();

/** The status with which the server refuses a request, or fails if it does not. */
export async function statusOf(request) {
  let response;
  try {
    response = await request;
  } catch (error) {
    if (error.status) return error.status;
    throw error;
  }
  throw new Error(`accepted with ${response.status}: ${await response.text()}`);
}
