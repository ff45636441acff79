-- Removes a value.
redis.call('DEL', value)
forget(key)
return 1
