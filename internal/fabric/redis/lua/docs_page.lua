-- Reads what changed last behind a revision, in the order of revisions. KEYS: those of the
-- collection. ARGV: the revision, how many at most, the bytes after which a page ends, and whether
-- deletions are wanted, 1 or 0.
-- Returns {epoch, revision of the last change, floor, and for each: key, revision, "<revision> <value>" or
-- nil when it was deleted}.
local after, limit, bytes = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

local function behind(key)
  return redis.call('ZRANGE', key, '(' .. after, '+inf', 'BYSCORE', 'LIMIT', 0, limit, 'WITHSCORES')
end

local function stateOf(field)
  return redis.call('HGET', state, field) or '0'
end

local page = {stateOf('epoch'), stateOf('revision'), stateOf('floor')}
local living, deleted = behind(live), {}
if ARGV[4] == '1' then
  deleted = behind(gone)
end
local i, j, size = 1, 1, 0
while #page < 3 + 3 * limit and size < bytes and (living[i] or deleted[j]) do
  local dies = not living[i] or deleted[j] and tonumber(deleted[j + 1]) < tonumber(living[i + 1])
  if dies then
    page[#page + 1] = deleted[j]
    page[#page + 1] = text(tonumber(deleted[j + 1]))
    page[#page + 1] = false
    j = j + 2
  else
    local value = redis.call('HGET', documents, living[i])
    page[#page + 1] = living[i]
    page[#page + 1] = text(tonumber(living[i + 1]))
    page[#page + 1] = value
    size = size + #(value or '')
    i = i + 2
  end
end
return page
