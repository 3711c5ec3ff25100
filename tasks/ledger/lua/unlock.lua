-- Let go of a lock, if it is still ours. Returns 1 when it was.
--
-- KEYS[1] <p>lock:<name>  STRING  token of the holder
--
-- ARGV[1] our token
if redis.call('GET', KEYS[1]) == ARGV[1] then
  return redis.call('DEL', KEYS[1])
end
return 0
