-- Set a shard aside for good and end its job as failed, since no engine can do it; the other shards stay pending, and
-- those that run are given back at their next beat. Of a job that has ended already the shard is given back.
-- Returns "FAILED", "OK" (given back) or "LOST".
--
-- Touches ctl (state, priority, ended, notify, of_rows; its history's fields), pending, leases, tokens, attempts,
-- failures, progress, past, late, events, open_jobs, outbox.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"   ARGV[4] reason
-- ARGV[5] "1" when rows may be to blame: a retry then blames them
local shard, token, reason, of_rows = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if not is_held(shard, token) then
  return 'LOST'
end
end_lease(shard)
local state = redis.call('HGET', ctl, 'state')
if state ~= 'running' and state ~= 'paused' then
  redis.call('LPUSH', pending, shard)
  return 'OK'
end
local num_attempts = (redis.call('HGET', attempts, shard) or 0) + 1
redis.call('HDEL', attempts, shard)
redis.call('HSET', failures, shard, num_attempts .. ':' .. reason)
redis.call('HSET', ctl, 'of_rows', of_rows)
note('failed-shard', shard, reason)
take_point(now_ms(), true)
end_job('failed')
return 'FAILED'
