-- Says of a job that is being worked on how long ago its worker was heard of: now, or for so long
-- that another takes it at once. KEYS: those of the queue. ARGV: the channel, the entry, the
-- delivery, and that time in milliseconds. Returns 1, or 0 when another has it.
local channel, entry, delivery, idle = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if not holds(entry, delivery) then
  return 0
end
redis.call('XCLAIM', ready, group, worker, 0, entry, 'IDLE', idle, 'JUSTID')
if idle ~= '0' then
  redis.call('SPUBLISH', channel, 'job')
end
return 1
