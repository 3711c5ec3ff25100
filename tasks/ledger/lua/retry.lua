-- Queue the failed shards again with a clean record, and run the job if it had ended as failed.
-- Returns the number of shards queued, or nil for an unknown job.
--
-- KEYS[1] <p>{job}:ctl    HASH  state, priority, ended
-- KEYS[2] <p>{job}:pend   LIST  pending shards
-- KEYS[6] <p>{job}:att    HASH  shard -> leases lost
-- KEYS[7] <p>{job}:bad    HASH  failed shard -> "attempts:reason"
-- KEYS[9] <p>open         ZSET  running jobs with pending shards, by priority
-- KEYS[10] <p>live        SET   jobs that may still need somebody
--
-- ARGV[1] job
local ctl = KEYS[1]
local state = redis.call('HGET', ctl, 'state')
if not state then
  return nil
end
local shards = redis.call('HKEYS', KEYS[7])
for _, shard in ipairs(shards) do
  redis.call('RPUSH', KEYS[2], shard)
  redis.call('HDEL', KEYS[6], shard)
end
redis.call('DEL', KEYS[7])
if state == 'failed' and #shards > 0 then
  redis.call('HSET', ctl, 'state', 'running')
  redis.call('HDEL', ctl, 'ended')
  redis.call('SADD', KEYS[10], ARGV[1])
  state = 'running'
end
if state == 'running' and #shards > 0 then
  redis.call('ZADD', KEYS[9], redis.call('HGET', ctl, 'priority'), ARGV[1])
end
return #shards
