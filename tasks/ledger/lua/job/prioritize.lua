-- Change the priority of a job; its running shards go on. Returns the one before, or nil for an unknown job.
--
-- Touches ctl (priority), open_jobs.
--
-- ARGV[2] priority
local before = redis.call('HGET', ctl, 'priority')
if not before then
  return nil
end
redis.call('HSET', ctl, 'priority', ARGV[2])
-- where workers find it already, under the other one
redis.call('ZADD', open_jobs, 'XX', ARGV[2], job)
return before
