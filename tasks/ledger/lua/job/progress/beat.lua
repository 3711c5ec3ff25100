-- Renew a lease and note how far its shard is. Returns "OK", "LOST", "CANCEL", "PAUSE" or "FAIL".
-- A job whose budget is spent is paused here. A pause is meant to free the devices, so running shards are given back; one already written may still be published.
--
-- Touches tokens, ctl (state, why, notify, its history's fields), leases, progress, past, late, events, open_jobs, outbox.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"   ARGV[4] ttl in ms   ARGV[5] how far, as LeaseProgress has it
local shard, token, ttl, told = unpack(ARGV, 2, 5)
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
local now = now_ms()
redis.call('ZADD', leases, now + ttl, shard)
redis.call('HSET', progress, shard, told)
-- the first worker that computes begins what rates are counted over
take_point(now, is_computing(told) and (redis.call('HGET', ctl, 'num_workers') or '0') == '0')
return pause_if_spent() and 'PAUSE' or 'OK'
