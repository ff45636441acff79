// Waiting for events. Nothing here sleeps for a fixed time: every wait ends with the event
// it is for, or fails after a limit with a message that says what did not come.

/** Milliseconds that a wait may last. Generous, because a busy machine is no defect. */
export const patience = 90_000;

/**
 * Gives a promise a time limit.
 *
 * @template T
 * @param {Promise<T>} promise
 * @param {string} what for the message
 * @param {number} limitMs
 * @returns {Promise<T>}
 */
export function within(promise, what, limitMs = patience) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`no ${what} within ${limitMs} ms`)), limitMs);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/**
 * Calls attempt again and again until it returns something truthy, for states that are
 * announced to nobody. The pause between two calls is short.
 *
 * @template T
 * @param {() => T | Promise<T>} attempt
 * @param {string} what for the message
 * @returns {Promise<T>}
 */
export async function eventually(attempt, what, limitMs = patience) {
  const deadline = Date.now() + limitMs;
  for (;;) {
    const result = await attempt();
    if (result) return result;
    if (Date.now() > deadline) throw new Error(`not within ${limitMs} ms: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/**
 * Everything that arrived at one place, in order. take() waits for an item and removes it
 * from those that are pending; all keeps the whole history, for what must not have come.
 *
 * @template T
 */
export class Inbox {
  /** @type {T[]} */
  all = [];
  #pending = [];
  #waiting = [];

  /** @param {string} name for messages */
  constructor(name) {
    this.name = name;
  }

  /** @param {T} item */
  push(item) {
    this.all.push(item);
    const index = this.#waiting.findIndex(({ matches }) => matches(item));
    if (index < 0) {
      this.#pending.push(item);
      return;
    }
    const [{ resolve }] = this.#waiting.splice(index, 1);
    resolve(item);
  }

  /**
   * Returns the first pending item that matches, once there is one.
   *
   * @param {(item: T) => boolean} matches
   * @param {string} what for the message
   * @returns {Promise<T>}
   */
  take(matches = () => true, what = 'item', limitMs = patience) {
    const index = this.#pending.findIndex(matches);
    if (index >= 0) return Promise.resolve(this.#pending.splice(index, 1)[0]);
    const waiter = { matches };
    const promise = new Promise((resolve) => {
      waiter.resolve = resolve;
      this.#waiting.push(waiter);
    });
    return within(promise, `${what} in ${this.name}`, limitMs).catch((error) => {
      this.#waiting.splice(this.#waiting.indexOf(waiter), 1);
      error.message += `; there came ${JSON.stringify(this.all).slice(0, 2000)}`;
      throw error;
    });
  }
}
