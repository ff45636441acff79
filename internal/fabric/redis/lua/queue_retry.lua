-- Has a job wait after a failure, if it is still in this delivery. KEYS: those of the queue. ARGV:
-- the channel, the entry, the delivery, the ID, the envelope, the delay in microseconds.
local channel, entry, delivery, id = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if not holds(entry, delivery) then
  return 0
end
settle(entry)
redis.call('HSET', jobs, id, ARGV[5])
redis.call('ZADD', delayed, text(now() + tonumber(ARGV[6])), id)
redis.call('SPUBLISH', channel, 'job')
return 1
