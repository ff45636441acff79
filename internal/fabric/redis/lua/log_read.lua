-- Reads entries under a pattern, or removes them. KEYS: those of the log. ARGV: the prefix, the pattern,
-- the sequence number from which on, how many at most, the bytes after which a page ends, whether the
-- pattern is a subject, "1" or "0", the sequence number up to which, "+" for all, and "read" or "remove".
-- Returns {the epoch, the sequence number behind what was looked at, "1" if there may be more or "0", and
-- for each entry: sequence number, subject, time, payload}.
local pattern, from, limit, bytes = ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local isSubject, upto, action = ARGV[6] == '1', ARGV[7], ARGV[8]

expire(1000)
local behind = tonumber(redis.call('HGET', state, 'last') or 0) + 1
local page = {redis.call('HGET', state, 'epoch') or '0', text(math.max(behind, tonumber(from))), '0'}
local count, size = 0, 0

-- take takes an entry, and says whether the page is full now.
local function take(entry)
  count = count + 1
  size = size + #entry[2][6]
  if action == 'remove' then
    remove(entry)
  else
    page[#page + 1] = seqOf(entry)
    page[#page + 1] = entry[2][2]
    page[#page + 1] = entry[2][4]
    page[#page + 1] = entry[2][6]
  end
  return count >= limit or size >= bytes
end

local function stop(entry)
  page[2], page[3] = text(tonumber(seqOf(entry)) + 1), '1'
  return page
end

if isSubject then
  local last = upto == '+' and '+inf' or upto
  for _, seq in ipairs(redis.call('ZRANGE', numbers(pattern), from, last, 'BYSCORE', 'LIMIT', 0, limit)) do
    local entry = fetch(seq)
    if entry and take(entry) then
      return stop(entry)
    end
  end
  return page
end

-- Few entries a step: a large one that is not wanted is read all the same.
local tokens, looked = split(pattern), 0
local start, last = id(from), upto == '+' and '+' or id(upto)
for _ = 1, 100 do
  local some = redis.call('XRANGE', entries, start, last, 'COUNT', 20)
  for _, entry in ipairs(some) do
    looked = looked + #entry[2][6]
    if pattern == '>' or covers(tokens, entry[2][2]) then
      if take(entry) then
        return stop(entry)
      end
    end
  end
  if #some < 20 then
    return page
  end
  start = '(' .. some[#some][1]
  if looked >= 4 * bytes then
    break
  end
end
page[2], page[3] = text(tonumber(string.match(start, '%d+')) + 1), '1'
return page
