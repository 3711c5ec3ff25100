-- Let a job have more shards: those behind the ones it has are queued. One that had ended runs again. Idempotent.
-- Returns the number of shards queued, or nil for an unknown job.
--
-- Touches ctl (state, priority, shards, rows, record, ended, notify, refusal, declined:<kind>), pending, events,
-- open_jobs, live_jobs.
--
-- ARGV[2] shards in all   ARGV[3] rows in all   ARGV[4] URLs to be told of its end, one a line; '' leaves those known
-- ARGV[5] digest of its record
local wanted, rows, notify, digest = tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local known = redis.call('HMGET', ctl, 'shards', 'state')
if not known[1] then
  return nil
end
local first, state = tonumber(known[1]), known[2]
if first > wanted then
  return 0
end
redis.call('HSET', ctl, 'record', digest)
if first == wanted then
  return 0
end
local last = wanted - 1
redis.call('RPUSH', pending, first == last and string.format('%d', first) or string.format('%d-%d', first, last))
redis.call('HSET', ctl, 'shards', wanted, 'rows', rows)
if notify ~= '' then
  redis.call('HSET', ctl, 'notify', notify)
end
if state ~= 'running' and state ~= 'paused' then
  redis.call('HSET', ctl, 'state', 'running')
  redis.call('HDEL', ctl, 'ended', 'refusal', 'why', 'stalled')
end
forget_declined()
redis.call('SADD', live_jobs, job)
note('extended', nil, string.format('%d shards', wanted - first))
open_if_running()
return wanted - first
