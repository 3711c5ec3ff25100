-- Take back leases whose deadline has passed. A lease without a token only rested, so it costs no attempt.
-- Returns {leases lost, shards failed, shards back from a rest}.
--
-- KEYS[1] <p>{job}:ctl    HASH  state, priority, retries
-- KEYS[2] <p>{job}:pend   LIST  pending shards
-- KEYS[3] <p>{job}:lease  ZSET  leased shard -> deadline in ms
-- KEYS[4] <p>{job}:tok    HASH  leased shard -> "fence:worker"
-- KEYS[6] <p>{job}:att    HASH  shard -> leases lost
-- KEYS[7] <p>{job}:bad    HASH  failed shard -> "attempts:reason"
-- KEYS[8] <p>{job}:run    HASH  leased shard -> progress
-- KEYS[9] <p>open         ZSET  running jobs with pending shards, by priority
--
-- ARGV[1] job   ARGV[2] attempts allowed   ARGV[3] leases to look at at most
local job, limit = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local num_lost, num_failed, num_rested = 0, 0, 0

local function lose(shard, token)
  local lost = redis.call('HINCRBY', KEYS[6], shard, 1)
  num_lost = num_lost + 1
  if lost < limit then
    redis.call('HINCRBY', KEYS[1], 'retries', 1)
    return true
  end
  local reason = 'its lease ended without a sign of life %d times, the last on worker %s'
  reason = string.format(reason, lost, string.match(token, ':(.*)$') or '?')
  redis.call('HSET', KEYS[7], shard, lost .. ':' .. reason)
  redis.call('HDEL', KEYS[6], shard)
  num_failed = num_failed + 1
  return false
end

for _, shard in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now, 'LIMIT', 0, ARGV[3])) do
  local token = redis.call('HGET', KEYS[4], shard)
  redis.call('ZREM', KEYS[3], shard)
  redis.call('HDEL', KEYS[4], shard)
  redis.call('HDEL', KEYS[8], shard)
  if not token then
    num_rested = num_rested + 1
  end
  if not token or lose(shard, token) then
    redis.call('LPUSH', KEYS[2], shard)
  end
end

if redis.call('EXISTS', KEYS[2]) == 1 and redis.call('HGET', KEYS[1], 'state') == 'running' then
  redis.call('ZADD', KEYS[9], redis.call('HGET', KEYS[1], 'priority'), job)
end
return {num_lost, num_failed, num_rested}
