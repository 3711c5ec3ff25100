-- End a job as failed though no shard of it is to blame, and say why; a retry goes on with it.
-- Returns 1, or 0 when it had ended already or is unknown.
--
-- Touches ctl (state, refusal, ended, notify; its history's fields), tokens, progress, past, late, events, open_jobs,
-- outbox.
--
-- ARGV[2] reason
local state = redis.call('HGET', ctl, 'state')
if state ~= 'running' and state ~= 'paused' then
  return 0
end
redis.call('HSET', ctl, 'refusal', ARGV[2])
take_point(now_ms(), true)
end_job('failed')
return 1
