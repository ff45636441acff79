// Runs the server under test as a process of its own.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import http from 'node:http';
import https from 'node:https';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { freePort } from './ports.js';
import { toToml } from './toml.js';
import { eventually, within } from './wait.js';

const defaultBinary = fileURLToPath(new URL('../../../bin/parley', import.meta.url));
const binary = path.resolve(process.env.PARLEY_BIN || defaultBinary);
const maxLog = 256 * 1024;

// The environment configures the server too; only the file should.
const environment = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith('PARLEY_')),
);

/** Fails with advice when there is no binary of the server. */
export function requireServer() {
  if (existsSync(binary)) return;
  throw new Error(`${binary} is missing: build cmd/parley or name its binary in PARLEY_BIN`);
}

/**
 * An app with client events, subscription counts and the given options.
 *
 * @param {object} options keys of an [[apps]] table
 */
export const anApp = (options = {}) => ({
  id: 'app',
  key: 'app-key',
  secret: 'app-secret',
  enable_client_messages: true,
  enable_subscription_count: true,
  ...options,
});

/**
 * Starts a server and waits until it is ready.
 *
 * @param {object} config tables of the configuration; ports and directories are filled in,
 *   and one app unless there are some
 * @returns {Promise<Server>}
 */
export async function startServer(config = {}) {
  requireServer();
  const directory = await mkdtemp(path.join(os.tmpdir(), 'parley-e2e-'));
  const server = new Server(directory, {
    ...config,
    node: { data_dir: path.join(directory, 'data'), ...config.node },
    channels: { host: '127.0.0.1', port: await freePort(), ...config.channels },
    metrics: { host: '127.0.0.1', port: await freePort(), ...config.metrics },
    webhooks: { batch_interval: '50ms', ...config.webhooks },
    apps: config.apps ?? [anApp()],
  });
  try {
    await server.start();
  } catch (error) {
    await rm(directory, { recursive: true, force: true });
    throw error;
  }
  return server;
}

/** One node, which can be ended and started again with the same data and ports. */
export class Server {
  #directory;
  #process;
  #exited;
  #ending; // whether the process has been asked to end

  /** What the process wrote to its standard output and error, the last part of it. */
  logs = '';

  constructor(directory, config) {
    this.#directory = directory;
    this.config = config;
    this.host = config.channels.host;
    this.port = config.channels.port;
    this.apps = config.apps;
    this.tls = Boolean(config.tls?.cert_file);
  }

  /** The address of the HTTP API, without a slash at the end. */
  get url() {
    return `${this.tls ? 'https' : 'http'}://${this.host}:${this.port}`;
  }

  /** The process id. */
  get pid() {
    return this.#process.pid;
  }

  /** Starts the process and waits until it says that it is ready. */
  async start() {
    const file = path.join(this.#directory, 'parley.toml');
    await writeFile(file, toToml(this.config));
    this.#ending = false;
    this.#process = spawn(binary, ['serve', '--config', file], {
      cwd: this.#directory,
      env: environment,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const keep = (chunk) => {
      this.logs = (this.logs + chunk).slice(-maxLog);
    };
    this.#process.stdout.on('data', keep);
    this.#process.stderr.on('data', keep);
    let exit;
    this.#exited = new Promise((resolve, reject) => {
      this.#process.once('error', reject);
      // Not "exit": the log is complete only when its pipes are closed.
      this.#process.once('close', (code, signal) => resolve((exit = { code, signal })));
    });
    try {
      await eventually(() => exit || this.#isReady(), 'the server is ready');
    } catch (error) {
      await this.kill();
      throw new Error(`${error.message}\n${this.logs}`);
    }
    if (exit) throw new Error(`the server ended with ${JSON.stringify(exit)}\n${this.logs}`);
    this.#exited.then((unexpected) => this.#ending || this.#giveUp(unexpected));
  }

  /** Ends the test file: every test of it would wait in vain for a server that is gone. */
  #giveUp(exit) {
    console.error(`the server ended by itself with ${JSON.stringify(exit)}\n${this.logs}`);
    process.exit(1);
  }

  #isReady() {
    const get = this.tls ? https.get : http.get;
    return new Promise((resolve) => {
      get(
        `${this.url}${this.config.channels.path_prefix ?? ''}/ready`,
        { rejectUnauthorized: false, agent: false },
        (response) => {
          response.resume();
          resolve(response.statusCode === 200);
        },
      ).on('error', () => resolve(false));
    });
  }

  /** Asks the process to end and waits for it; returns its exit code and signal. */
  async stop() {
    this.#ending = true;
    this.#process.kill('SIGTERM');
    return within(this.#exited, 'end of the server after SIGTERM', 60_000);
  }

  /** Ends the process without asking. */
  async kill() {
    this.#ending = true;
    this.#process.kill('SIGKILL');
    return this.#exited;
  }

  /** Stops the process, fails unless that was clean, and removes its files. */
  async close() {
    let exit;
    try {
      exit = await this.stop();
    } catch (error) {
      await this.kill();
      throw new Error(`${error.message}\n${this.logs}`);
    } finally {
      await rm(this.#directory, { recursive: true, force: true });
    }
    if (exit.code !== 0) throw new Error(`exit ${JSON.stringify(exit)}\n${this.logs}`);
    const complaint = this.logs.match(/^(WARNING: DATA RACE|panic: |fatal error: ).*$/m);
    if (complaint) throw new Error(`the server complained: ${this.logs.slice(complaint.index)}`);
  }
}
