import { coreTests } from '../suites/core.js';

coreTests('event loops', { transport: { mode: 'event-loop' } });
