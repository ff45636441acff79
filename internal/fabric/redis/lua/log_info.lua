-- Returns {first, last, entries, bytes}; first is "" when there is no entry.
expire(1000)
local oldest = first()
return {
  oldest and seqOf(oldest) or '',
  redis.call('HGET', state, 'last') or '0',
  text(redis.call('XLEN', entries)),
  redis.call('HGET', state, 'bytes') or '0',
}
