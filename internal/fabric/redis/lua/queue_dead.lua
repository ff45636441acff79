-- Lists dead letters, oldest first. KEYS: those of the queue. ARGV: the ID behind which to begin, ""
-- for the start, how many at most, the bytes after which a page ends.
-- Returns a list of ID, envelope and payload in turn, or nil when that ID is not there.
local after, limit, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local from = '-inf'
if after ~= '' then
  local score = redis.call('ZSCORE', dead, after)
  if not score then
    return false
  end
  from = '(' .. score
end
local page, size = {}, 0
for _, id in ipairs(redis.call('ZRANGE', dead, from, '+inf', 'BYSCORE', 'LIMIT', 0, limit)) do
  local payload = redis.call('HGET', contents, id) or ''
  page[#page + 1] = id
  page[#page + 1] = redis.call('HGET', letters, id) or ''
  page[#page + 1] = payload
  size = size + #payload
  if size >= bytes then
    break
  end
end
return page
