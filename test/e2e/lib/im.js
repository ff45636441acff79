// The real client of WuKongIM, and one of JSON-RPC, against messaging.

import { createRequire } from 'node:module';
import { mkdtempSync, rmSync, readFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';

import { buildSync } from 'esbuild';
import { WebSocket } from 'ws';

import { freePort } from './ports.js';
import { startServer } from './server.js';
import { eventually } from './wait.js';

const require = createRequire(import.meta.url);
const here = path.dirname(fileURLToPath(import.meta.url));
const directory = mkdtempSync(path.join(os.tmpdir(), 'parley-im-sdk-'));
const bundle = path.join(directory, 'sdk.cjs');

// The package imports its own files without extensions, which Node does not find.
const bundled = (options) => buildSync({
  stdin: {
    contents: `export { default } from 'wukongimjssdk'; export * from 'wukongimjssdk/lib/sdk.js';`,
    resolveDir: path.join(here, '..'),
  },
  bundle: true,
  logLevel: 'error',
  ...options,
});
bundled({ platform: 'node', format: 'cjs', outfile: bundle });

/** The client as a script for pages, which have it as window.WK. */
export const scriptForPages = () =>
  bundled({ platform: 'browser', format: 'iife', globalName: 'WK', write: false }).outputFiles[0].text;

globalThis.WebSocket = WebSocket;
// The client's timers never end, and would keep the process of the tests.
const { setInterval } = globalThis;
globalThis.setInterval = (...args) => setInterval(...args).unref();
process.once('exit', () => rmSync(directory, { recursive: true, force: true }));
console.log = ((log) => (...args) => (/^(on(open|close|message|Subscribe)|sendSubscribe|订阅|close\.\.\.\.)|连接|断开|重连|^\.\.\./.test(args[0]) ? undefined : log(...args)))(console.log);

export const person = 1;
export const group = 2;

/** Starts a server with messaging. */
export async function startIM(t, im = {}, config = {}) {
  const ports = { tcp_port: await freePort(), ws_port: await freePort(), http_port: await freePort() };
  const server = await startServer({ ...config, im: { enabled: true, host: '127.0.0.1', ...ports, ...im } });
  t.after(() => server.close());
  return { server, ...imOf(ports, im.manager_token ?? readToken(server)) };
}

const readToken = (server) => readFileSync(path.join(server.config.node.data_dir, 'im-token'), 'utf8').trim();

/** What clients and the application reach a node's messaging by. */
export function imOf({ ws_port, http_port, tcp_port }, token) {
  const api = `http://127.0.0.1:${http_port}`;
  const call = async (method, route, body) => {
    const response = await fetch(api + route, {
      method,
      headers: { token, 'Content-Type': 'application/json' },
      body: body === undefined ? undefined : JSON.stringify(body),
    });
    return { code: response.status, body: await response.json() };
  };
  return {
    ws: `ws://127.0.0.1:${ws_port}`,
    tcpPort: tcp_port,
    token,
    api,
    get: (route) => call('GET', route),
    post: (route, body) => call('POST', route, body),
  };
}

/** Has the real client trust a certificate, in this process. */
export function trust(ca) {
  globalThis.WebSocket = class extends WebSocket {
    constructor(address) {
      super(address, { ca });
    }
  };
}

/** A user with the real client, of which each has a copy of its own. */
export class User {
  received = [];
  acks = [];
  states = [];
  #sdk;
  #module;

  constructor(t, address, uid, token = 'token') {
    delete require.cache[bundle];
    this.#module = require(bundle);
    this.#sdk = this.#module.default.shared();
    this.uid = uid;
    Object.assign(this.#sdk.config, { addr: address, uid, token });
    this.#sdk.connectManager.addConnectStatusListener((state, reason) => this.states.push([state, reason]));
    this.#sdk.chatManager.addMessageListener((m) => {
      if (m.send && !m.messageSeq) return; // what this client has just sent
      this.received.push({
        from: m.fromUID, channel: m.channel.channelID, type: m.channel.channelType, seq: m.messageSeq,
        text: m.content.text, id: String(m.messageID), redDot: m.header.reddot,
      });
    });
    this.#sdk.chatManager.addMessageStatusListener((a) =>
      this.acks.push({ client: a.clientSeq, seq: a.messageSeq, reason: a.reasonCode, id: String(a.messageID) }));
    t.after(() => this.disconnect());
  }

  connect() {
    this.#sdk.connect();
  }

  disconnect() {
    this.#sdk.disconnect();
  }

  async connected() {
    this.connect();
    await eventually(() => this.states.some(([state]) => state === 1), `${this.uid} is connected`);
    return this;
  }

  /** Sends a text and returns its acknowledgement. */
  async send(text, channel, type = person) {
    const before = this.acks.length;
    const message = await this.#sdk.chatManager.send(new this.#module.MessageText(text), new this.#module.Channel(channel, type));
    await eventually(() => this.acks.slice(before).some((a) => a.client === message.clientSeq), `${this.uid} has an answer`);
    return this.acks.find((a) => a.client === message.clientSeq);
  }

  /** Sends without waiting. */
  post(text, channel, type = person) {
    this.#sdk.chatManager.send(new this.#module.MessageText(text), new this.#module.Channel(channel, type));
  }

  async receives(text) {
    await eventually(() => this.received.some((m) => m.text === text), `${this.uid} receives ${text}`);
    return this.received.find((m) => m.text === text);
  }

  /** Subscribes to a channel without members; what comes there goes to the list returned. */
  subscribe(channel) {
    const heard = { answers: [], texts: [] };
    this.#sdk.channelManager.onSubscribe(channel, (message, reason) => {
      if (message) heard.texts.push(message.content.text);
      else heard.answers.push(reason);
    });
    return heard;
  }
}

/** A client of JSON-RPC over WebSocket. */
export class RPC {
  notifications = [];
  #answers = new Map();
  #next = 0;

  static async open(t, address, options = {}) {
    const rpc = new RPC();
    rpc.socket = new WebSocket(address, options);
    rpc.socket.on('message', (data) => {
      const m = JSON.parse(data);
      if (m.method) rpc.notifications.push(m);
      else rpc.#answers.set(m.id, m);
    });
    await new Promise((resolve, reject) => rpc.socket.once('open', resolve).once('error', reject));
    t.after(() => rpc.socket.terminate());
    return rpc;
  }

  async request(method, params) {
    const id = `r${this.#next++}`;
    this.socket.send(JSON.stringify({ method, id, params }));
    await eventually(() => this.#answers.has(id), `an answer to ${method}`);
    return this.#answers.get(id);
  }

  notify(method, params) {
    this.socket.send(JSON.stringify({ method, params }));
  }
}

export const base64 = (value) => Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)).toString('base64');
