-- Removes a job that was done, whoever has it now. KEYS: those of the queue. ARGV: the entry, the ID.
if settle(ARGV[1]) then
  redis.call('HDEL', jobs, ARGV[2])
  redis.call('HDEL', payloads, ARGV[2])
end
return 1
