-- Keys of a log: the stream of entries <seq>-0 with subject, time in microseconds and payload; the
-- subjects by the sequence number of their newest entry; the state {epoch, when the log began, last,
-- bytes, and the limits age in microseconds, size, subject}. What the key of a subject's sequence numbers begins with is
-- ARGV[1].
local entries, subjects, state, prefix = KEYS[1], KEYS[2], KEYS[3], ARGV[1]

-- What an entry is counted with beside subject and payload.
local overhead = 64

-- limit sets the limits.
local function limit(age, size, subject)
  redis.call('HSETNX', state, 'epoch', text(now()))
  redis.call('HSET', state, 'age', age, 'size', size, 'subject', subject)
end

-- numbers is the key of the sequence numbers of a subject.
local function numbers(subject)
  return prefix .. subject
end

local function id(seq)
  return text(tonumber(seq)) .. '-0'
end

-- seqOf is the sequence number in an entry's ID, as text.
local function seqOf(entry)
  return string.match(entry[1], '^%d+')
end

-- fetch returns an entry, nil when there is none.
local function fetch(seq)
  return redis.call('XRANGE', entries, id(seq), id(seq))[1]
end

-- remove removes an entry that was read.
local function remove(entry)
  local seq, subject, payload = seqOf(entry), entry[2][2], entry[2][6]
  redis.call('XDEL', entries, entry[1])
  redis.call('ZREM', numbers(subject), seq)
  local newest = redis.call('ZRANGE', numbers(subject), -1, -1)[1]
  if newest then
    redis.call('ZADD', subjects, newest, subject)
  else
    redis.call('ZREM', subjects, subject)
  end
  redis.call('HINCRBY', state, 'bytes', -(#subject + #payload + overhead))
end

-- first is the oldest entry, nil when there is none.
local function first()
  return redis.call('XRANGE', entries, '-', '+', 'COUNT', 1)[1]
end

-- expire removes entries that are too old, up to a number of them.
local function expire(most)
  local age = tonumber(redis.call('HGET', state, 'age') or 0)
  if age == 0 then
    return
  end
  local limit = now() - age
  for _ = 1, most do
    local oldest = first()
    if not oldest or tonumber(oldest[2][4]) > limit then
      return
    end
    remove(oldest)
  end
end

-- split returns the tokens of a pattern or subject.
local function split(subject)
  local tokens = {}
  for token in string.gmatch(subject, '[^.]+') do
    tokens[#tokens + 1] = token
  end
  return tokens
end

-- covers says whether the tokens of a pattern cover a subject.
local function covers(pattern, subject)
  local i = 0
  for token in string.gmatch(subject, '[^.]+') do
    i = i + 1
    if pattern[i] == '>' and i == #pattern then
      return true
    end
    if pattern[i] ~= '*' and pattern[i] ~= token then
      return false
    end
  end
  return i == #pattern
end

