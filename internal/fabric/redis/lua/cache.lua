-- Keys of a part of a cache: the one value; then for all values of the part their keys by the time
-- of the last write and by their ends in microseconds, the size of each, and the sum of these.
-- What each value's key begins with is ARGV[1], the value's key ARGV[2], the largest sum ARGV[3].
local value, ages, ends, sizes, total = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local prefix, key, limit = ARGV[1], ARGV[2], tonumber(ARGV[3])

-- What a value costs beside itself: its key stands in four places.
local overhead = 400

-- forget takes a value out of the account.
local function forget(key)
  local size = redis.call('HGET', sizes, key)
  if size then
    redis.call('HDEL', sizes, key)
    redis.call('ZREM', ages, key)
    redis.call('ZREM', ends, key)
    redis.call('DECRBY', total, size)
  end
end

-- note takes a write into the account, with the milliseconds after which the value ends, 0 for
-- never, nil for as before; then it removes values: of some the account alone, as they have ended,
-- and of the oldest as many as are too much.
local function note(bytes, milliseconds)
  local time = now()
  local size = bytes + 4 * #key + overhead
  local sum = redis.call('INCRBY', total, size - (redis.call('HGET', sizes, key) or 0))
  redis.call('HSET', sizes, key, size)
  redis.call('ZADD', ages, text(time), key)
  if milliseconds == 0 then
    redis.call('ZREM', ends, key)
  elseif milliseconds then
    redis.call('ZADD', ends, text(time + milliseconds * 1000), key)
  end
  for _, ended in ipairs(redis.call('ZRANGE', ends, '-inf', text(time), 'BYSCORE', 'LIMIT', 0, 16)) do
    if redis.call('EXISTS', prefix .. ended) == 0 then
      forget(ended)
    end
  end
  while sum > limit do
    local oldest = redis.call('ZRANGE', ages, 0, 0)[1]
    if not oldest then
      break
    end
    redis.call('DEL', prefix .. oldest)
    forget(oldest)
    sum = tonumber(redis.call('GET', total))
  end
end

-- store writes the value.
local function store(content, milliseconds)
  if milliseconds > 0 then
    redis.call('SET', value, content, 'PX', milliseconds)
  else
    redis.call('SET', value, content)
  end
  note(#content, milliseconds)
end

