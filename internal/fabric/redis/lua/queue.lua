-- Keys of a queue: the envelope and the payload of each job, by its ID; the stream of jobs that are
-- ready, with the ID alone, and the group of its readers; jobs that wait, by when they are due in
-- microseconds; the envelope and the payload of each dead letter; and their IDs in order.
local jobs, payloads, ready, delayed = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local letters, contents, dead = KEYS[5], KEYS[6], KEYS[7]
local group, worker = 'workers', 'worker'

-- holds says whether an entry was last delivered in this delivery. A job is delivered again when
-- its worker has not kept it, and what the first one says then no longer counts.
local function holds(entry, delivery)
  local pending = redis.pcall('XPENDING', ready, group, entry, entry, 1)
  return not pending.err and pending[1] and pending[1][4] == tonumber(delivery)
end

-- settle removes an entry, and says whether it was there.
local function settle(entry)
  redis.pcall('XACK', ready, group, entry)
  return redis.call('XDEL', ready, entry) == 1
end

-- offer makes a job ready.
local function offer(id)
  redis.call('XADD', ready, '*', 'id', id)
end

