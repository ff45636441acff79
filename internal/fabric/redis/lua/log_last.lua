-- Finds the newest entry under a pattern. KEYS: those of the log. ARGV: the prefix, the pattern, whether
-- it is a subject, "1" or "0". Returns {sequence number, subject, time, payload}, nil when there is none.
local pattern, isSubject = ARGV[2], ARGV[3] == '1'

expire(1000)
local seq
if isSubject then
  seq = redis.call('ZSCORE', subjects, pattern)
else
  local tokens, at = split(pattern), 0
  repeat
    local some = redis.call('ZRANGE', subjects, at, at + 99, 'REV', 'WITHSCORES')
    for i = 1, #some, 2 do
      if covers(tokens, some[i]) then
        seq = some[i + 1]
        break
      end
    end
    at = at + 100
  until seq or #some < 200
end
if not seq then
  return false
end
local entry = fetch(seq)
return {seqOf(entry), entry[2][2], entry[2][4], entry[2][6]}
