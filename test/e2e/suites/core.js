// The tests that every way of serving connections must pass.

import { after, before, describe } from 'node:test';

import { startServer } from '../lib/server.js';
import { cacheTests } from './cache.js';
import { channelTests } from './channels.js';
import { clientEventTests } from './client-events.js';
import { encryptedTests } from './encrypted.js';
import { presenceTests } from './presence.js';

/**
 * Declares the core tests for a server of a configuration.
 *
 * @param {string} name
 * @param {object} config
 */
export function coreTests(name, config) {
  describe(name, () => {
    const at = { server: null }; // filled in before the first test runs
    before(async () => {
      at.server = await startServer(config);
    });
    after(() => at.server?.close());

    describe('channels', () => channelTests(at));
    describe('presence channels', () => presenceTests(at));
    describe('client events', () => clientEventTests(at));
    describe('cache channels', () => cacheTests(at));
    describe('encrypted channels', () => encryptedTests(at));
  });
}
