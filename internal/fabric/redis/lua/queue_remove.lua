-- Removes all of a queue. KEYS: those of the queue. Returns 1.
redis.call('UNLINK', jobs, payloads, ready, delayed, letters, contents, dead)
return 1
