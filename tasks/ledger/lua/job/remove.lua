-- Drop a job, whatever it was at; its output stays. Returns 1, or 0 when it has not ended long enough ago or has been
-- registered anew since it was looked at.
--
-- Touches every key of the job and its digests (all that it has), open_jobs, live_jobs, all_jobs.
--
-- ARGV[2] ms that must have passed since its end, -1 to drop it in any state
-- ARGV[3] when it was registered, in ms; '' to drop it whenever that was
local min_age_ms, created = tonumber(ARGV[2]), ARGV[3]
if created ~= '' and redis.call('HGET', ctl, 'created') ~= created then
  return 0
end
if min_age_ms ~= -1 and redis.call('EXISTS', ctl) == 1 then
  local ended = redis.call('HGET', ctl, 'ended')
  if not ended or now_ms() - ended < min_age_ms then
    return 0
  end
end
redis.call('ZREM', open_jobs, job)
redis.call('SREM', live_jobs, job)
redis.call('ZREM', all_jobs, job)
redis.call('DEL', ctl, pending, leases, tokens, done, attempts, failures, progress, past, late, errors, events,
  ends, redo)
for i = FIRST_DIGESTS, #KEYS do
  redis.call('DEL', KEYS[i])
end
return 1
