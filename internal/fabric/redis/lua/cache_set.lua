-- Stores a value. ARGV: those of the part, the value, the milliseconds after which it ends.
store(ARGV[4], tonumber(ARGV[5]))
return 1
