-- Removes a dead letter, and before makes a job of it when an envelope is given. KEYS: those of the
-- queue, the operation. ARGV: the channel, the ID, the letter's envelope as it was read, that of
-- the job or "", how many jobs there may be, how long the operation is remembered.
-- Returns "done", "missing", "changed" or "full".
local operation = KEYS[8]
local channel, id, letter, envelope = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local memory = ARGV[6]

local before = recall(operation, memory)
if before then
  return before
end
local found = redis.call('HGET', letters, id)
if not found then
  return 'missing'
end
if found ~= letter then
  return 'changed'
end
if envelope ~= '' and redis.call('HEXISTS', jobs, id) == 0 then
  if redis.call('HLEN', jobs) >= tonumber(ARGV[5]) then
    return 'full'
  end
  redis.call('HSET', jobs, id, envelope)
  redis.call('HSET', payloads, id, redis.call('HGET', contents, id) or '')
  offer(id)
  redis.call('SPUBLISH', channel, 'job')
end
redis.call('HDEL', letters, id)
redis.call('HDEL', contents, id)
redis.call('ZREM', dead, id)
remember(operation, memory, 'done')
return 'done'
