-- Renew a lease and note how far its shard is. Returns "OK", "LOST", "CANCEL", "PAUSE" or "FAIL".
-- A pause is meant to free the devices, so running shards are given back; one already written may still be published.
--
-- Touches tokens, ctl (state), leases, progress.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"   ARGV[4] ttl in ms   ARGV[5] rows   ARGV[6] tokens
local shard, token, ttl, rows, num_tokens = unpack(ARGV, 2, 6)
if not is_held(shard, token) then
  return 'LOST'
end
local state = redis.call('HGET', ctl, 'state')
if state == 'cancelled' then
  return 'CANCEL'
elseif state == 'paused' then
  return 'PAUSE'
elseif state == 'failed' then
  return 'FAIL'
end
redis.call('ZADD', leases, now_ms() + ttl, shard)
redis.call('HSET', progress, shard, rows .. ':' .. num_tokens)
return 'OK'
