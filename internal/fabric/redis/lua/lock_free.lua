-- Frees a lock. ARGV: the holder, the token, and for how long the lock is kept, so that tokens grow even
-- when the clock of the server is set back. Returns 1, or 0 when it is not the holder's.
local me, token, keep = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', lock, 'holder') == '' and redis.call('HGET', lock, 'freed') == me then
  return 1 -- by an earlier try, whose answer was lost
end
if lost(me, token) then
  return 0
end
redis.call('HSET', lock, 'holder', '', 'freed', me, 'revision', text(math.max(advance(), tonumber(token) + 1)))
redis.call('PEXPIRE', lock, keep)
return 1
