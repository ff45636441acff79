-- Makes all writes or none. KEYS: those of the collection, the operation. ARGV: the channel of
-- changes, how long the operation is remembered, how many deletions are, then for each write its
-- key, the expected revision, "put" or "delete", and the value.
-- Returns {1, revision of the first write} or {0, the key that is not as expected, its revision}.
local operation, channel, memory, deletions = KEYS[5], ARGV[1], ARGV[2], tonumber(ARGV[3])

local before = recall(operation, memory)
if before then
  return {1, before}
end

for i = 4, #ARGV, 4 do
  local key, expected, kind = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 2]
  local current = tonumber(redis.call('ZSCORE', live, key) or 0)
  if current ~= expected or kind == 'delete' and current == 0 then
    return {0, key, text(current)}
  end
end

redis.call('HSETNX', state, 'epoch', text(now()))
-- Revisions go by the clock, so that those which a failover lost do not come again.
local first = math.max(tonumber(redis.call('HGET', state, 'revision') or 0) + 1, now())
local revision = first
for i = 4, #ARGV, 4 do
  local key, kind, value = ARGV[i], ARGV[i + 2], ARGV[i + 3]
  if kind == 'put' then
    redis.call('HSET', documents, key, text(revision) .. ' ' .. value)
    redis.call('ZADD', live, text(revision), key)
    redis.call('ZREM', gone, key)
  else
    redis.call('HDEL', documents, key)
    redis.call('ZREM', live, key)
    redis.call('ZADD', gone, text(revision), key)
  end
  revision = revision + 1
end
redis.call('HSET', state, 'revision', text(revision - 1))

local over = redis.call('ZCARD', gone) - deletions
if over > 0 then
  local popped = redis.call('ZPOPMIN', gone, over)
  redis.call('HSET', state, 'floor', text(tonumber(popped[#popped])))
end

remember(operation, memory, text(first))
redis.call('SPUBLISH', channel, 'changed')
return {1, text(first)}
