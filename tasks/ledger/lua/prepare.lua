-- May the holder publish its part? Returns "OK", "SHORT" (the lease ends too soon), "LOST" or "CANCEL".
--
-- KEYS[1] <p>{job}:ctl    HASH  state
-- KEYS[3] <p>{job}:lease  ZSET  leased shard -> deadline in ms
-- KEYS[4] <p>{job}:tok    HASH  leased shard -> "fence:worker"
--
-- ARGV[1] shard   ARGV[2] "fence:worker"   ARGV[3] ms the lease must still last
local shard = ARGV[1]
if redis.call('HGET', KEYS[4], shard) ~= ARGV[2] then
  return 'LOST'
end
if redis.call('HGET', KEYS[1], 'state') == 'cancelled' then
  return 'CANCEL'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
if redis.call('ZSCORE', KEYS[3], shard) - now < tonumber(ARGV[3]) then
  return 'SHORT'
end
return 'OK'
