-- Set a shard aside for good. Returns "OK", "LAST" (nothing of the job is left to run) or "LOST".
--
-- Touches ctl (shards, done), leases, tokens, attempts, failures, progress, events.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"   ARGV[4] reason
local shard, token, reason = ARGV[2], ARGV[3], ARGV[4]
if not is_held(shard, token) then
  return 'LOST'
end
local num_attempts = (redis.call('HGET', attempts, shard) or 0) + 1
end_lease(shard)
redis.call('HDEL', attempts, shard)
redis.call('HSET', failures, shard, num_attempts .. ':' .. reason)
note('failed-shard', shard, reason)
return num_left() == 0 and 'LAST' or 'OK'
