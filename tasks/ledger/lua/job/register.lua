-- Register a job, unless it is known already. Returns 1 when it is new, else 0.
--
-- Touches every key of the job, open_jobs, live_jobs, all_jobs.
--
-- ARGV[2] bitmap of committed shards, may be empty   ARGV[3] number of pending items
-- ARGV[4..] pending items, then field and value of ctl in turn
local bitmap, num_items = ARGV[2], tonumber(ARGV[3])
if redis.call('EXISTS', ctl) == 1 then
  return 0
end

local now = now_ms()
-- left over from a registration that was cut short by the loss of ctl
redis.call('DEL', pending, leases, tokens, done, attempts, failures, progress, past, late, errors, events,
  ends, redo)
for i = 4, 3 + num_items do
  redis.call('RPUSH', pending, ARGV[i])
end
for i = 4 + num_items, #ARGV, 2 do
  redis.call('HSET', ctl, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', ctl, 'state', 'running', 'created', now, 'served', now, 'retries', 0)
-- from the clock, not from 0: of a job that was forgotten and has come back somebody may still hold an old token
redis.call('HSET', ctl, 'fence', math.floor(now / 1000))
if #bitmap > 0 then
  redis.call('SET', done, bitmap)
end
redis.call('ZADD', all_jobs, now, job)
redis.call('SADD', live_jobs, job)
note('registered')
if num_items > 0 then
  open_if_running()
end
return 1
