-- In front of every script, put there by scripts.py: the time and the names of keys.
--
-- <p> stands for the prefix of the environment, "pq:<env>:".

-- Milliseconds since the Unix epoch on the clock of Redis, the only clock that leases know.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- The key <p>{job}:<name>; job/prelude.lua tells what each holds.
local function job_key(prefix, job, name)
  return prefix .. '{' .. job .. '}:' .. name
end
