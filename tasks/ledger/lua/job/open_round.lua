-- Begin a retry of error rows: the job runs again, and queue_rows.lua names the shards. Whoever does both holds the lock of
-- finalizers. Returns {"OK", its round}, {"BUSY"} while workers still hold shards, {"STATE", state} when it has not ended, or nil for
-- an unknown job.
--
-- Touches ctl (state, ended, refusal, declined:<kind>, round and the fields given), tokens, events, live_jobs.
--
-- ARGV[2] the least round it may be: none is given twice   ARGV[3] "1" to begin it whatever the state is   ARGV[4..] field and value of ctl in turn
local is_forced = ARGV[3] == '1'
local last = tonumber(redis.call('HGET', ctl, 'round') or 0)
local round = string.format('%d', math.max(last + (is_forced and 0 or 1), ARGV[2] + 0))
local state = redis.call('HGET', ctl, 'state')
if not state then
  return nil
end
if not is_forced and state ~= 'done' and state ~= 'failed' and state ~= 'cancelled' then
  return {'STATE', state}
end
if not is_forced and redis.call('EXISTS', tokens) == 1 then
  return {'BUSY'}
end
for i = 4, #ARGV, 2 do
  redis.call('HSET', ctl, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', ctl, 'state', 'running', 'round', round)
redis.call('HDEL', ctl, 'ended', 'refusal')
forget_declined()
redis.call('SADD', live_jobs, job)
note('retried', nil, 'error rows, round ' .. round)
return {'OK', round}
