-- Removes one entry. KEYS: those of the log, the operation. ARGV: the prefix, the sequence number, how
-- long the operation is remembered. Returns "1", or "0" when there is none.
local operation = KEYS[4]
local seq, memory = ARGV[2], ARGV[3]

if recall(operation, memory) then
  return '1'
end
expire(1000)
local entry = redis.call('XRANGE', entries, seq .. '-0', seq .. '-0')[1]
if not entry then
  return '0'
end
remove(entry)
remember(operation, memory, '1')
return '1'
