-- Give a shard back. Returns "OK", "FAILED" (it has used up its attempts), "LAST" (failed, and nothing is left
-- to run) or "LOST".
--
-- KEYS[1] <p>{job}:ctl    HASH  state, priority, shards, done, retries
-- KEYS[2] <p>{job}:pend   LIST  pending shards
-- KEYS[3] <p>{job}:lease  ZSET  leased shard -> deadline in ms; one without a token rests until then
-- KEYS[4] <p>{job}:tok    HASH  leased shard -> "fence:worker"
-- KEYS[6] <p>{job}:att    HASH  shard -> leases lost
-- KEYS[7] <p>{job}:bad    HASH  failed shard -> "attempts:reason"
-- KEYS[8] <p>{job}:run    HASH  leased shard -> progress
-- KEYS[9] <p>open         ZSET  running jobs with pending shards, by priority
--
-- ARGV[1] shard   ARGV[2] "fence:worker"   ARGV[3] job
-- ARGV[4] attempts allowed, 0 when this one does not count   ARGV[5] reason   ARGV[6] ms to rest before the next
local ctl, shard, limit = KEYS[1], ARGV[1], tonumber(ARGV[4])
if redis.call('HGET', KEYS[4], shard) ~= ARGV[2] then
  return 'LOST'
end
redis.call('HDEL', KEYS[4], shard)
redis.call('HDEL', KEYS[8], shard)
redis.call('ZREM', KEYS[3], shard)

if limit > 0 then
  local lost = redis.call('HINCRBY', KEYS[6], shard, 1)
  if lost >= limit then
    redis.call('HSET', KEYS[7], shard, lost .. ':' .. ARGV[5])
    redis.call('HDEL', KEYS[6], shard)
    local left = redis.call('HGET', ctl, 'shards') - redis.call('HGET', ctl, 'done') - redis.call('HLEN', KEYS[7])
    return left == 0 and 'LAST' or 'FAILED'
  end
  redis.call('HINCRBY', ctl, 'retries', 1)
end

if tonumber(ARGV[6]) > 0 then
  local time = redis.call('TIME')
  redis.call('ZADD', KEYS[3], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[6], shard)
  return 'OK'
end
redis.call('LPUSH', KEYS[2], shard)
if redis.call('HGET', ctl, 'state') == 'running' then
  redis.call('ZADD', KEYS[9], redis.call('HGET', ctl, 'priority'), ARGV[3])
end
return 'OK'
