-- Put a job into another state. Returns {1 when it is in that state now, the state it was in}, {0, "spent"} when it may
-- not go on since its budget is spent, or nil for an unknown job.
--
-- Touches ctl (state, priority, ended, declined:<kind>, why, stalled, notify: URLs to be told of the end, one a line; its
-- history's fields), pending,
-- tokens, progress, past, late, events, open_jobs, live_jobs, outbox.
--
-- ARGV[2] state wanted   ARGV[3] "1" when that state is final
-- ARGV[4] how many shards the job must have, '' for any number: it may have got more since somebody saw the last one end
-- ARGV[5..] states from which it may be reached
local wanted, is_final, num_shards = ARGV[2], ARGV[3] == '1', ARGV[4]
local state = redis.call('HGET', ctl, 'state')
if not state or state == wanted then
  return state and {1, state} or nil
end
local is_legal = false
for i = 5, #ARGV do
  is_legal = is_legal or ARGV[i] == state
end
is_legal = is_legal and (num_shards == '' or num_shards == redis.call('HGET', ctl, 'shards'))
if not is_legal then
  return {0, state}
end

take_point(now_ms(), true)
if wanted == 'running' and is_spent() then
  return {0, 'spent'}
end
if wanted ~= 'running' then
  -- what passes from here on is nobody's work
  redis.call('HSET', ctl, 'num_workers', 0, 'num_gpus', 0)
end
if is_final then
  end_job(wanted)
else
  redis.call('HSET', ctl, 'state', wanted)
  note(wanted)
  redis.call('HDEL', ctl, 'ended', 'why', 'stalled')
  redis.call('SADD', live_jobs, job)
  forget_declined()
  if wanted ~= 'running' then
    redis.call('ZREM', open_jobs, job)
  elseif redis.call('EXISTS', pending) == 1 then
    open_if_running()
  end
end
return {1, state}
