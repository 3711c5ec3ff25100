-- Set a shard aside for good and end its job as failed, since no engine can do it; the other shards stay pending, and
-- those that run are given back at their next beat. Of a job that has ended already the shard is given back, and so it is
-- where only this kind of worker is unable, and another one lives.
-- Returns "FAILED", "OK" (given back) or "LOST".
--
-- Touches ctl (state, priority, ended, notify, of_rows, declined:<kind of worker> (why); its history's fields), pending,
-- leases, tokens, attempts, failures, progress, past, late, events, open_jobs, outbox; <p>workers, <p>worker:<id>.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"   ARGV[4] reason
-- ARGV[5] "1" when rows may be to blame: a retry then blames them
-- ARGV[6] ms of silence after which a worker that may be able counts as gone; 0 when none can be
local shard, token, reason, of_rows, silence_ms = ARGV[2], ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local prefix = string.sub(all_jobs, 1, -5)

-- Whether a living worker of the job's queue is able to run it.
local function another_may()
  local queue = redis.call('HGET', ctl, 'queue')
  for _, worker in ipairs(redis.call('ZRANGEBYSCORE', prefix .. 'workers', now_ms() - silence_ms, '+inf')) do
    local told = redis.call('HMGET', prefix .. 'worker:' .. worker, 'queue', 'drained')
    local serves = string.find(',' .. (told[1] or '') .. ',', ',' .. queue .. ',', 1, true)
    if serves and told[2] ~= '1' and is_able(ability_of(prefix, worker), ctl) then
      return true
    end
  end
  return false
end

if not is_held(shard, token) then
  return 'LOST'
end
end_lease(shard)
local state = redis.call('HGET', ctl, 'state')
if state ~= 'running' and state ~= 'paused' then
  redis.call('LPUSH', pending, shard)
  return 'OK'
end
if silence_ms > 0 then
  redis.call('HSET', ctl, 'declined:' .. ability_of(prefix, string.match(token, ':(.*)$')).kind, reason)
  if another_may() then
    redis.call('LPUSH', pending, shard)
    note('declined', shard, reason)
    open_if_running()
    return 'OK'
  end
end
local num_attempts = (redis.call('HGET', attempts, shard) or 0) + 1
redis.call('HDEL', attempts, shard)
redis.call('HSET', failures, shard, num_attempts .. ':' .. reason)
redis.call('HSET', ctl, 'of_rows', of_rows)
note('failed-shard', shard, reason)
take_point(now_ms(), true)
end_job('failed')
return 'FAILED'
