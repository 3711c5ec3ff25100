-- Renew a lease and note how far its shard is. Returns "OK", "LOST", "CANCEL" or "PAUSE".
-- A pause is meant to free the devices, so running shards are given back; one already written may still be published.
--
-- KEYS[1] <p>{job}:ctl    HASH  state
-- KEYS[3] <p>{job}:lease  ZSET  leased shard -> deadline in ms
-- KEYS[4] <p>{job}:tok    HASH  leased shard -> "fence:worker"
-- KEYS[8] <p>{job}:run    HASH  leased shard -> "rows:tokens" finished so far
--
-- ARGV[1] shard   ARGV[2] "fence:worker"   ARGV[3] ttl in ms   ARGV[4] rows   ARGV[5] tokens
local shard = ARGV[1]
if redis.call('HGET', KEYS[4], shard) ~= ARGV[2] then
  return 'LOST'
end
local state = redis.call('HGET', KEYS[1], 'state')
if state == 'cancelled' then
  return 'CANCEL'
elseif state == 'paused' then
  return 'PAUSE'
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[3], now + ARGV[3], shard)
redis.call('HSET', KEYS[8], shard, ARGV[4] .. ':' .. ARGV[5])
return 'OK'
