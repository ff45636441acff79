-- Takes one job that is ready: first one whose worker has not kept it for the visibility, then the
-- oldest. KEYS: those of the queue, the worker's memory. ARGV: the visibility in milliseconds, the number
-- of the worker's turn, whether the worker leaves, "1" or "0", how long its memory is kept.
-- A turn gives one job, however often it is asked for; one who leaves gets the job of his turn or none,
-- and an earlier turn is over.
-- Returns {entry, delivery, ID, envelope, payload}, or {microseconds after which there may be one},
-- {"-1"} when nothing waits.
local memory = KEYS[8]
local visibility, turn, leaves, keep = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3] == '1', ARGV[4]
local time = now()

-- note has the worker's memory say what the turn gave.
local function note(...)
  redis.call('SET', memory, table.concat({ARGV[2], ...}, ' '), 'PX', keep)
end

-- job returns what stands for an entry, nil when that is nothing.
local function job(entry, delivery)
  local id = entry[2] and entry[2][2]
  local envelope = id and redis.call('HGET', jobs, id)
  if envelope then
    return {entry[1], text(delivery), id, envelope, redis.call('HGET', payloads, id) or ''}
  end
end

local before = redis.call('GET', memory)
if before then
  local last, entry, delivery = string.match(before, '^(%d+) ?(%S*) ?(%S*)$')
  if tonumber(last) > turn then
    return {'-1'}
  end
  if tonumber(last) == turn and entry ~= '' and holds(entry, delivery) then
    redis.call('XCLAIM', ready, group, worker, 0, entry, 'JUSTID')
    local same = job(redis.call('XRANGE', ready, entry, entry)[1] or {}, delivery)
    if same then
      return same
    end
  end
end
if leaves then
  note()
  return {'-1'}
end

local due = redis.call('ZRANGE', delayed, '-inf', text(time), 'BYSCORE', 'LIMIT', 0, 100)
for _, id in ipairs(due) do
  redis.call('ZREM', delayed, id)
  offer(id)
end

-- What a failover or an administrator may have removed.
local function withGroup(...)
  local result = redis.pcall(...)
  if type(result) == 'table' and result.err and string.find(result.err, 'NOGROUP', 1, true) then
    redis.call('XGROUP', 'CREATE', ready, group, '0', 'MKSTREAM')
    result = redis.call(...)
  end
  return result
end

local function nextEntry()
  local left = withGroup('XPENDING', ready, group, 'IDLE', visibility, '-', '+', 1)
  if left[1] then
    local entry, delivery = left[1][1], left[1][4] + 1
    local claimed = redis.call('XCLAIM', ready, group, worker, visibility, entry)
    return claimed[1] or {entry}, delivery
  end
  local read = redis.call('XREADGROUP', 'GROUP', group, worker, 'COUNT', 1, 'STREAMS', ready, '>')
  if read then
    return read[1][2][1], 1
  end
end

for _ = 1, 100 do
  local entry, delivery = nextEntry()
  if not entry then
    break
  end
  local found = job(entry, delivery)
  if found then
    note(entry[1], text(delivery))
    return found
  end
  settle(entry[1]) -- it stands for nothing
end
note()

local wait = -1
local function earlier(microseconds)
  if wait < 0 or microseconds < wait then
    wait = math.max(microseconds, 0)
  end
end
local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
if first[2] then
  earlier(tonumber(first[2]) - time)
end
for _, pending in ipairs(redis.call('XPENDING', ready, group, '-', '+', 1000)) do
  earlier((visibility - pending[3]) * 1000)
end
return {text(wait)}
