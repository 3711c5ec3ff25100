-- Every job that still needs somebody: running, paused, or ended with leases out.
-- Returns job, queue, state, pending shards, shards left to commit or fail, in turn.
--
-- KEYS[1] <p>live          SET   jobs that may still need somebody; those that do not are taken out here
-- <p>{job}:ctl             HASH  state, queue, shards, done
-- <p>{job}:lease           ZSET  leased shard -> deadline in ms
-- <p>{job}:bad             HASH  failed shard -> "attempts:reason"
--
-- ARGV[1] prefix <p>
local found = {}
for _, job in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local key = ARGV[1] .. '{' .. job .. '}:'
  local ctl = redis.call('HMGET', key .. 'ctl', 'state', 'queue', 'shards', 'done')
  local leases = redis.call('ZCARD', key .. 'lease')
  if ctl[1] == 'running' or ctl[1] == 'paused' or (ctl[1] and leases > 0) then
    local left = ctl[3] - ctl[4] - redis.call('HLEN', key .. 'bad')
    local pending = ctl[1] == 'running' and left - leases or 0
    for _, value in ipairs({job, ctl[2], ctl[1], pending, left}) do
      table.insert(found, value)
    end
  else
    redis.call('SREM', KEYS[1], job)
  end
end
return found
