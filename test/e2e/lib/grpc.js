// An application that is told of messages over gRPC, made from the description in docs/reference.

import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { loadPackageDefinition, Server, ServerCredentials } from '@grpc/grpc-js';
import { loadSync } from '@grpc/proto-loader';

const file = fileURLToPath(new URL(path.join('..', '..', '..', 'docs', 'reference', 'webhook.proto'), import.meta.url));

/**
 * Serves WebhookService on a free port and returns its address.
 *
 * @param {(call: {event: string, data: Buffer}, about: object) => {status: string}} answer
 */
export async function startWebhookService(t, answer) {
  const { wkhook } = loadPackageDefinition(loadSync(file, { enums: String }));
  const server = new Server();
  server.addService(wkhook.WebhookService.service, {
    sendWebhook: ({ request, metadata }, done) => done(null, answer(request, metadata)),
  });
  const port = await new Promise((resolve, reject) => {
    server.bindAsync('127.0.0.1:0', ServerCredentials.createInsecure(), (error, bound) => (error ? reject(error) : resolve(bound)));
  });
  t.after(() => server.forceShutdown());
  return `127.0.0.1:${port}`;
}
