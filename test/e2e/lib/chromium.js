import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import os from 'node:os';
import path from 'node:path';

import { chromium } from 'playwright-core';

const executablePath = process.env.CHROMIUM_BIN || '/usr/bin/chromium';

/** Fails with advice when there is no Chromium. */
export function requireChromium() {
  if (existsSync(executablePath)) return;
  throw new Error(
    `${executablePath} is missing: install Chromium (apt-get install chromium) or name its binary in CHROMIUM_BIN`,
  );
}

/**
 * Starts Chromium without a window and with an empty profile.
 *
 * @returns {Promise<{newPage: () => Promise<import('playwright-core').Page>,
 *   close: () => Promise<void>}>}
 */
export async function startChromium() {
  requireChromium();
  const profile = await mkdtemp(path.join(os.tmpdir(), 'parley-e2e-chromium-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath,
    headless: true,
    chromiumSandbox: false,
    args: [
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
    ],
  });
  const close = async () => {
    await context.close();
    await rm(profile, { recursive: true, force: true });
  };
  return { newPage: () => context.newPage(), close };
}
