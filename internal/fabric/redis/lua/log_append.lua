-- Appends an entry. KEYS: those of the log, the operation. ARGV: the prefix, the channel, the subject,
-- the payload, the sequence numbers that the newest entry of all and of the subject must have, each
-- "" for any, how long the operation is remembered, and the limits for a log that has lost them with
-- everything else. Returns the sequence number, "" when one is not as expected.
local operation = KEYS[4]
local channel, subject, payload, last, lastOfSubject, memory = ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]

local before = recall(operation, memory)
if before then
  return before
end
if redis.call('HEXISTS', state, 'age') == 0 then
  limit(ARGV[8], ARGV[9], ARGV[10])
end
expire(100)
local current = redis.call('HGET', state, 'last') or '0'
if last ~= '' and last ~= current then
  return ''
end
if lastOfSubject ~= '' and tonumber(lastOfSubject) ~= tonumber(redis.call('ZSCORE', subjects, subject) or 0) then
  return ''
end

local seq = text(tonumber(current) + 1)
redis.call('HSET', state, 'last', seq)
redis.call('XADD', entries, id(seq), 's', subject, 't', text(now()), 'p', payload)
redis.call('ZADD', numbers(subject), seq, seq)
redis.call('ZADD', subjects, seq, subject)
local bytes = redis.call('HINCRBY', state, 'bytes', #subject + #payload + overhead)

local most = tonumber(redis.call('HGET', state, 'subject') or 0)
if most > 0 then
  local over = redis.call('ZCARD', numbers(subject)) - most
  if over > 0 then
    for _, old in ipairs(redis.call('ZRANGE', numbers(subject), 0, math.min(over, 100) - 1)) do
      remove(fetch(old))
    end
    bytes = tonumber(redis.call('HGET', state, 'bytes'))
  end
end
local size = tonumber(redis.call('HGET', state, 'size') or 0)
while size > 0 and bytes > size do
  local oldest = first()
  if not oldest then
    break
  end
  remove(oldest)
  bytes = tonumber(redis.call('HGET', state, 'bytes'))
end

remember(operation, memory, seq)
redis.call('SPUBLISH', channel, 'entry')
return seq
