-- Sets the limits of a log. ARGV: the prefix, age in microseconds, bytes, entries of a subject.
limit(ARGV[2], ARGV[3], ARGV[4])
return 1
