-- Take back leases whose deadline has passed. A lease without a token only rested, so it costs no attempt.
-- Returns {leases lost, shards failed, shards back from a rest}.
-- Where nobody has looked for long, the broker was away and nobody could renew a lease: whoever still lives is given time to.
--
-- Touches ctl (state, priority, retries, looked, grace), pending, leases, tokens, attempts, failures, progress, events, open_jobs.
--
-- ARGV[2] attempts allowed   ARGV[3] leases to look at at most   ARGV[4] ms without a look that are a lull
-- ARGV[5] ms that holders have after one
local limit, at_most, lull_ms, grace_ms = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5])
local num_lost, num_failed, num_rested = 0, 0, 0

local function lose(shard, token)
  local lost = redis.call('HINCRBY', attempts, shard, 1)
  num_lost = num_lost + 1
  if lost < limit then
    note('lost', shard, 'no sign of life from ' .. (string.match(token, ':(.*)$') or '?'))
    redis.call('HINCRBY', ctl, 'retries', 1)
    return true
  end
  local reason = 'its lease ended without a sign of life %d times, the last on worker %s'
  reason = string.format(reason, lost, string.match(token, ':(.*)$') or '?')
  redis.call('HSET', failures, shard, lost .. ':' .. reason)
  redis.call('HDEL', attempts, shard)
  note('failed-shard', shard, reason)
  num_failed = num_failed + 1
  return false
end

local function is_in_grace(now)
  local looked, grace = unpack(redis.call('HMGET', ctl, 'looked', 'grace'))
  redis.call('HSET', ctl, 'looked', now)
  if looked and now - looked > lull_ms then
    grace = now + grace_ms
    redis.call('HSET', ctl, 'grace', grace)
  end
  return now < tonumber(grace or '0')
end

if redis.call('EXISTS', ctl) == 0 or is_in_grace(now_ms()) then
  return {0, 0, 0}
end
for _, shard in ipairs(redis.call('ZRANGEBYSCORE', leases, '-inf', now_ms(), 'LIMIT', 0, at_most)) do
  local token = redis.call('HGET', tokens, shard)
  end_lease(shard)
  if not token then
    num_rested = num_rested + 1
  end
  if not token or lose(shard, token) then
    redis.call('LPUSH', pending, shard)
  end
end

if redis.call('EXISTS', pending) == 1 then
  open_if_running()
end
return {num_lost, num_failed, num_rested}
