-- now is the time of the server in microseconds since 1970, which a double holds exactly.
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000000 + time[2]
end

-- text is a whole number in digits.
local function text(number)
  return string.format('%.0f', number)
end

-- recall returns what the operation with this key returned when it was done before, and keeps
-- that for longer; nil when it was not. The write also has a WAIT that follows wait for it.
local function recall(key, milliseconds)
  local result = redis.call('GET', key)
  if result then
    redis.call('PEXPIRE', key, milliseconds)
    return result
  end
end

local function remember(key, milliseconds, result)
  redis.call('SET', key, result, 'PX', milliseconds)
end

