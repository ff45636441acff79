-- Adds a job. KEYS: those of the queue, the memory of the ID. ARGV: the channel, the ID, the
-- envelope, the payload, the delay in microseconds, how many jobs there may be, and how long the ID
-- is remembered. Returns "stored", "known" or "full".
local memory = KEYS[8]
local channel, id, envelope, payload, delay = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])

if redis.call('EXISTS', memory) == 1 or redis.call('HEXISTS', jobs, id) == 1 then
  return 'known'
end
if redis.call('HLEN', jobs) >= tonumber(ARGV[6]) then
  return 'full'
end
redis.call('SET', memory, '', 'PX', ARGV[7])
redis.call('HSET', jobs, id, envelope)
redis.call('HSET', payloads, id, payload)
if delay > 0 then
  redis.call('ZADD', delayed, text(now() + delay), id)
else
  offer(id)
end
redis.call('SPUBLISH', channel, 'job')
return 'stored'
