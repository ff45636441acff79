-- A lock is a hash: its holder, empty when it is free; the one who freed it; the holder's lease in
-- milliseconds; the token; and the revision, which every write changes.
local lock = KEYS[1]

-- advance returns a revision over all that came before, also over those that a failover lost.
local function advance()
  return math.max(tonumber(redis.call('HGET', lock, 'revision') or 0) + 1, now())
end

-- lost says whether a lock is no longer that of a holder with this token: another has taken it since.
-- What the server knows may also be older than the token, after a failover or a restart that lost
-- the holder's turn; then nobody has.
local function lost(me, token)
  if redis.call('HGET', lock, 'holder') == me then
    return false
  end
  local revision = redis.call('HGET', lock, 'revision')
  return revision and tonumber(revision) >= tonumber(token)
end

