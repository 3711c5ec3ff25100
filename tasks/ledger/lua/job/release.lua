-- Give a shard back. Returns "OK", "FAILED" (it has used up its attempts), "LAST" (failed, and nothing is left
-- to run) or "LOST".
--
-- Touches ctl (state, priority, shards, done, retries), pending, leases, tokens, attempts, failures, progress,
-- events, open_jobs.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"
-- ARGV[4] attempts allowed, 0 when this one does not count   ARGV[5] reason   ARGV[6] ms to rest before the next
local shard, token, limit, reason, rest_ms = ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], tonumber(ARGV[6])
if not is_held(shard, token) then
  return 'LOST'
end
end_lease(shard)

if limit > 0 then
  local lost = redis.call('HINCRBY', attempts, shard, 1)
  if lost >= limit then
    redis.call('HSET', failures, shard, lost .. ':' .. reason)
    redis.call('HDEL', attempts, shard)
    note('failed-shard', shard, reason)
    return num_left() == 0 and 'LAST' or 'FAILED'
  end
  redis.call('HINCRBY', ctl, 'retries', 1)
  note('lost', shard, reason)
end

if rest_ms > 0 then
  redis.call('ZADD', leases, now_ms() + rest_ms, shard)
  return 'OK'
end
redis.call('LPUSH', pending, shard)
open_if_running()
return 'OK'
