-- One job's numbers at one moment. Returns nil for an unknown job, else
-- {now in ms, failed shards, {sums of running shards}, {ctl}, {shard, failure, ...}, {worker, shards it holds, those of
--  them that have their engine, ...}, {ms with a worker that computes, the same times such workers, ms of cards}, an earlier point of
--  the history or "", {kind of error, rows, ...}, shards whose error rows are to be computed anew}.
--
-- Touches ctl, tokens, failures, progress, late, errors, redo.
--
-- ARGV[2] failures, and kinds of errors, to return at most
local at_most = tonumber(ARGV[2])
local fields = redis.call('HGETALL', ctl)
if #fields == 0 then
  return nil
end
local sums, holders = running_now()
local held = {}
for worker, mine in pairs(holders) do
  for _, value in ipairs({worker, mine[1], mine[2]}) do
    table.insert(held, value)
  end
end

-- HSCAN would not be bounded on a small hash either, and failures are few or the user has other worries
local listed, shards = {}, redis.call('HKEYS', failures)
table.sort(shards, function(a, b) return tonumber(a) < tonumber(b) end)
for i = 1, math.min(#shards, at_most) do
  table.insert(listed, shards[i])
  table.insert(listed, redis.call('HGET', failures, shards[i]))
end
local now = now_ms()
local active_ms, worker_ms = active_until(now)
local num_late = redis.call('LLEN', late)
local earlier = num_late > 0 and redis.call('LINDEX', late, math.max(num_late - NUM_RECENT, 0)) or ''
local kinds = at_most > 0 and redis.call('HGETALL', errors) or {}
return {now, #shards, sums, fields, listed, held, {active_ms, worker_ms, gpu_ms_until(now)}, earlier, kinds, redis.call('HLEN', redo)}
