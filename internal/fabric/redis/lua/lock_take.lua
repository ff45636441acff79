-- Takes a lock that is free, or whose holder has not been heard of since a revision. ARGV: who
-- takes it, the lease, that revision, and for how long the lock is kept.
-- Returns {1, token} or {0, revision, lease} of the other holder.
local me, lease, dead, keep = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local holder = redis.call('HGET', lock, 'holder')
if holder == me then -- an earlier try, whose answer was lost
  return {1, redis.call('HGET', lock, 'token')}
end
if holder and holder ~= '' then
  local revision = redis.call('HGET', lock, 'revision')
  if revision ~= dead then
    return {0, revision, redis.call('HGET', lock, 'lease')}
  end
end
local revision = text(advance())
redis.call('HSET', lock, 'holder', me, 'lease', lease, 'token', revision, 'revision', revision)
redis.call('PEXPIRE', lock, keep)
return {1, revision}
