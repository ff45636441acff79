-- Makes a job a dead letter, if it is still in this delivery. KEYS: those of the queue, the
-- operation. ARGV: the entry, the delivery, the ID, the letter's envelope, how many letters are
-- kept, how long the operation is remembered. Returns how many letters it pushed out, "-1" when
-- another has the job.
local operation = KEYS[8]
local entry, delivery, id, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local kept, memory = tonumber(ARGV[5]), ARGV[6]

local before = recall(operation, memory)
if before then
  return before
end
if not holds(entry, delivery) then
  return '-1'
end
settle(entry)
redis.call('HSET', letters, id, envelope)
redis.call('HSET', contents, id, redis.call('HGET', payloads, id) or '')
redis.call('HDEL', jobs, id)
redis.call('HDEL', payloads, id)
local last = redis.call('ZRANGE', dead, -1, -1, 'WITHSCORES')
redis.call('ZADD', dead, text(math.max(tonumber(last[2] or 0) + 1, now())), id)

local over = math.max(redis.call('ZCARD', dead) - kept, 0)
local pushed = over > 0 and redis.call('ZPOPMIN', dead, over) or {}
for i = 1, #pushed, 2 do
  redis.call('HDEL', letters, pushed[i])
  redis.call('HDEL', contents, pushed[i])
end
remember(operation, memory, text(over))
return text(over)
