-- Set a shard aside for good. Returns "OK", "LAST" (nothing of the job is left to run) or "LOST".
--
-- KEYS[1] <p>{job}:ctl    HASH  shards, done
-- KEYS[3] <p>{job}:lease  ZSET  leased shard -> deadline in ms
-- KEYS[4] <p>{job}:tok    HASH  leased shard -> "fence:worker"
-- KEYS[6] <p>{job}:att    HASH  shard -> leases lost
-- KEYS[7] <p>{job}:bad    HASH  failed shard -> "attempts:reason"
-- KEYS[8] <p>{job}:run    HASH  leased shard -> progress
--
-- ARGV[1] shard   ARGV[2] "fence:worker"   ARGV[3] reason
local shard = ARGV[1]
if redis.call('HGET', KEYS[4], shard) ~= ARGV[2] then
  return 'LOST'
end
local attempts = (redis.call('HGET', KEYS[6], shard) or 0) + 1
redis.call('HDEL', KEYS[4], shard)
redis.call('HDEL', KEYS[6], shard)
redis.call('HDEL', KEYS[8], shard)
redis.call('ZREM', KEYS[3], shard)
redis.call('HSET', KEYS[7], shard, attempts .. ':' .. ARGV[3])
local left = redis.call('HGET', KEYS[1], 'shards') - redis.call('HGET', KEYS[1], 'done') - redis.call('HLEN', KEYS[7])
return left == 0 and 'LAST' or 'OK'
