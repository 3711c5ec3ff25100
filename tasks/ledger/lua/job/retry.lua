-- Queue the failed shards again with a clean record, and run the job if it had ended as failed.
-- One that was stopped since engines fail on different rows blames rows from now on.
-- Returns the number of shards queued, or nil for an unknown job.
--
-- Touches ctl (state, priority, ended, refusal, declined:<kind>, blames_rows), pending, attempts, failures, events, open_jobs, live_jobs.
local state = redis.call('HGET', ctl, 'state')
if not state then
  return nil
end
local shards = redis.call('HKEYS', failures)
for _, shard in ipairs(shards) do
  redis.call('RPUSH', pending, shard)
  redis.call('HDEL', attempts, shard)
end
redis.call('DEL', failures)
forget_declined()
local is_refused = redis.call('HDEL', ctl, 'refusal') == 1
if state == 'failed' and (#shards > 0 or is_refused) then
  redis.call('HSET', ctl, 'state', 'running')
  redis.call('HDEL', ctl, 'ended')
  if redis.call('HGET', ctl, 'of_rows') == '1' then
    redis.call('HSET', ctl, 'blames_rows', 1)
  end
  redis.call('SADD', live_jobs, job)
end
if #shards > 0 or is_refused then
  note('retried', nil, #shards .. ' shards queued again')
  open_if_running()
end
return #shards
