-- Stores a value if the present one is as expected. KEYS: those of the part, the operation. ARGV:
-- those of the part, whether there must be a value, "1" or "0", and which, the new one, the
-- milliseconds after which it ends, how long the operation is remembered. Returns 1 or 0.
local operation = KEYS[6]
local present, old, content, milliseconds, memory = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7]), ARGV[8]

if recall(operation, memory) then
  return 1
end
local current = redis.call('GET', value)
if present == '1' and current ~= old or present ~= '1' and current then
  return 0
end
store(content, milliseconds)
remember(operation, memory, '1')
return 1
