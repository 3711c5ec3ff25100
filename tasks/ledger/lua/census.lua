-- Every unfinished job: running, paused, or ended with leases out.
-- Returns job, queue, state, pending shards, shards left to commit or fail, version of its record, in turn.
--
-- KEYS[1] <p>live   SET   jobs that may be unfinished; those that are not are taken out here
-- of each job: ctl, lease, bad (see job/prelude.lua)
--
-- ARGV[1] prefix <p>
local live_jobs, prefix = KEYS[1], ARGV[1]
local found = {}

-- Tell of one job, or take it out. Fails where its record is damaged.
local function look(job)
  local ctl = redis.call('HMGET', job_key(prefix, job, 'ctl'), 'state', 'queue', 'shards', 'done', 'version')
  local state, queue = ctl[1], ctl[2]
  local num_leases = redis.call('ZCARD', job_key(prefix, job, 'lease'))
  if state == 'running' or state == 'paused' or (state and num_leases > 0) then
    local left = ctl[3] - ctl[4] - redis.call('HLEN', job_key(prefix, job, 'bad'))
    local num_pending = state == 'running' and left - num_leases or 0
    for _, value in ipairs({job, queue .. '', state, num_pending, left, ctl[5] or '0'}) do
      table.insert(found, value)
    end
  else
    redis.call('SREM', live_jobs, job)
  end
end

for _, job in ipairs(redis.call('SMEMBERS', live_jobs)) do
  -- a damaged job must not keep the others from being looked after
  pcall(look, job)
end
return found
