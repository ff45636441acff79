// Says at once what is missing, before every test fails for it.

import { requireChromium } from './lib/chromium.js';
import { requireServer } from './lib/server.js';

try {
  requireServer();
  requireChromium();
} catch (error) {
  console.error(error.message);
  process.exit(1);
}
