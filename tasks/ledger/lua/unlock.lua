-- Let go of a lock, if it is still ours. Returns 1 when it was.
--
-- KEYS[1] <p>lock:<name>  STRING  token of the holder
--
-- ARGV[1] our token
local lock, token = KEYS[1], ARGV[1]
if redis.call('GET', lock) == token then
  return redis.call('DEL', lock)
end
return 0
