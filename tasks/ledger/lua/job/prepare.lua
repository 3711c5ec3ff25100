-- May the holder publish its part? Returns "OK", "SHORT" (the lease ends too soon), "LOST" or "CANCEL".
--
-- Touches tokens, ctl (state), leases.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"   ARGV[4] ms the lease must still last
local shard, token, needed_ms = ARGV[2], ARGV[3], tonumber(ARGV[4])
if not is_held(shard, token) then
  return 'LOST'
end
if redis.call('HGET', ctl, 'state') == 'cancelled' then
  return 'CANCEL'
end
if redis.call('ZSCORE', leases, shard) - now_ms() < needed_ms then
  return 'SHORT'
end
return 'OK'
