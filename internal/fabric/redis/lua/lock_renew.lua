-- Renews a lease. ARGV: the holder, the lease, the token, and for how long the lock is kept. Returns 1,
-- or 0 when it is not the holder's.
local me, lease, token, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

if lost(me, token) then
  return 0
end
local revision = text(math.max(advance(), tonumber(token) + 1))
redis.call('HSET', lock, 'holder', me, 'lease', lease, 'token', token, 'revision', revision)
redis.call('PEXPIRE', lock, keep)
return 1
