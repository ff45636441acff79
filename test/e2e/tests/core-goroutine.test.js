import { coreTests } from '../suites/core.js';

coreTests('a goroutine for each connection', {
  transport: { mode: 'goroutine' },
  fabric: { driver: 'memory' },
});
