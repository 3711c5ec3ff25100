-- One job's numbers at one moment. Returns nil for an unknown job, else
-- {now in ms, leased shards, failed shards, rows in running shards, tokens in them, {ctl}, {shard, failure, ...}}.
--
-- Touches ctl, tokens, failures, progress.
--
-- ARGV[2] failures to return at most
local at_most = tonumber(ARGV[2])
local fields = redis.call('HGETALL', ctl)
if #fields == 0 then
  return nil
end
local rows, num_tokens = 0, 0
for _, text in ipairs(redis.call('HVALS', progress)) do
  local r, t = string.match(text, '^(%d+):(%d+)$')
  rows, num_tokens = rows + (r or 0), num_tokens + (t or 0)
end

-- HSCAN would not be bounded on a small hash either, and failures are few or the user has other worries
local listed, shards = {}, redis.call('HKEYS', failures)
table.sort(shards, function(a, b) return tonumber(a) < tonumber(b) end)
for i = 1, math.min(#shards, at_most) do
  table.insert(listed, shards[i])
  table.insert(listed, redis.call('HGET', failures, shards[i]))
end
return {now_ms(), redis.call('HLEN', tokens), #shards, rows, num_tokens, fields, listed}
