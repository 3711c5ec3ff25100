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

-- What keeps jobs from a worker: a kind that has declined them, and what they need and it does not offer. One without a
-- kind has not announced itself yet, one with empty offers serves whatever comes.
local function ability_of(prefix, worker)
  local told = redis.call('HMGET', prefix .. 'worker:' .. worker, 'kind', 'offers')
  return {kind = told[1] or worker, offers = (told[2] or '') ~= '' and told[2] .. '\n'}
end

local function is_able(ability, ctl)
  local told = redis.call('HMGET', ctl, 'declined:' .. ability.kind, 'needs')
  if told[1] then
    return false
  end
  for need in string.gmatch(ability.offers and told[2] or '', '[^\n]+') do
    if not string.find(ability.offers, '\n' .. need .. '\n', 1, true) then
      return false
    end
  end
  return true
end
