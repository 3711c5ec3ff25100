-- Put a job into another state. Returns {1 when it is in that state now, the state it was in}, or nil for an
-- unknown job.
--
-- KEYS[1] <p>{job}:ctl    HASH  state, priority, ended, notify (URLs to be told of the end, one a line)
-- KEYS[2] <p>{job}:pend   LIST  pending shards
-- KEYS[9] <p>open         ZSET  running jobs with pending shards, by priority
-- KEYS[10] <p>live        SET   jobs that may still need somebody
-- KEYS[11] <p>outbox      ZSET  "job state ended-ms url" -> when it is due, in ms
--
-- ARGV[1] job   ARGV[2] state wanted   ARGV[3] "1" when that state is final
-- ARGV[4..] states from which it may be reached
local ctl, job, wanted = KEYS[1], ARGV[1], ARGV[2]
local state = redis.call('HGET', ctl, 'state')
if not state or state == wanted then
  return state and {1, state} or nil
end
local legal = false
for i = 4, #ARGV do
  legal = legal or ARGV[i] == state
end
if not legal then
  return {0, state}
end

redis.call('HSET', ctl, 'state', wanted)
if wanted == 'running' and redis.call('EXISTS', KEYS[2]) == 1 then
  redis.call('ZADD', KEYS[9], redis.call('HGET', ctl, 'priority'), job)
elseif wanted ~= 'running' then
  redis.call('ZREM', KEYS[9], job)
end
if ARGV[3] == '1' then
  local time = redis.call('TIME')
  local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
  redis.call('HSET', ctl, 'ended', now)
  for url in string.gmatch(redis.call('HGET', ctl, 'notify') or '', '[^\n]+') do
    redis.call('ZADD', KEYS[11], now, job .. ' ' .. wanted .. ' ' .. now .. ' ' .. url)
  end
else
  redis.call('HDEL', ctl, 'ended')
  redis.call('SADD', KEYS[10], job)
end
return {1, state}
