-- Adds to a counter. KEYS: those of the part, the operation. ARGV: those of the part, the number, the
-- milliseconds after which a new counter ends, how long the operation is remembered. Returns the sum
-- as text, or "" when the value is no number or the sum too large.
local operation = KEYS[6]
local delta, milliseconds, memory = ARGV[4], tonumber(ARGV[5]), ARGV[6]

local before = recall(operation, memory)
if before then
  return before
end
local new = redis.call('EXISTS', value) == 0
local result = redis.pcall('INCRBY', value, delta)
if type(result) == 'table' and result.err then
  if string.find(result.err, 'integer') or string.find(result.err, 'overflow') then
    return ''
  end
  return result
end
-- As text from the value, for the result is a double.
local sum = redis.call('GET', value)
if not new then
  note(#sum, nil)
elseif milliseconds > 0 then
  redis.call('PEXPIRE', value, milliseconds)
  note(#sum, milliseconds)
else
  note(#sum, 0)
end
remember(operation, memory, sum)
return sum
