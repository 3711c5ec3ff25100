-- One job's numbers at one moment. Returns nil for an unknown job, else
-- {now in ms, leased shards, failed shards, rows in running shards, tokens in them, {ctl}, {shard, failure, ...}}.
--
-- KEYS[1] <p>{job}:ctl    HASH  state, totals, labels and counters
-- KEYS[4] <p>{job}:tok    HASH  leased shard -> "fence:worker"
-- KEYS[7] <p>{job}:bad    HASH  failed shard -> "attempts:reason"
-- KEYS[8] <p>{job}:run    HASH  leased shard -> "rows:tokens"
--
-- ARGV[1] failures to return at most
local ctl = redis.call('HGETALL', KEYS[1])
if #ctl == 0 then
  return nil
end
local rows, tokens = 0, 0
for _, progress in ipairs(redis.call('HVALS', KEYS[8])) do
  local r, t = string.match(progress, '^(%d+):(%d+)$')
  rows, tokens = rows + (r or 0), tokens + (t or 0)
end

-- HSCAN would not be bounded on a small hash either, and failures are few or the user has other worries
local failures, shards = {}, redis.call('HKEYS', KEYS[7])
table.sort(shards, function(a, b) return tonumber(a) < tonumber(b) end)
for i = 1, math.min(#shards, tonumber(ARGV[1])) do
  table.insert(failures, shards[i])
  table.insert(failures, redis.call('HGET', KEYS[7], shards[i]))
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
return {now, redis.call('HLEN', KEYS[4]), #shards, rows, tokens, ctl, failures}
