-- Check a job's counter against its bitmap, and its shards against the lists they may be on; put back what is on
-- none of them. Returns {how far `done` was off, shards put back}, or nil for an unknown job.
--
-- Touches ctl (state, priority, shards, done), pending, leases, tokens, done, failures, open_jobs.
local counts = redis.call('HMGET', ctl, 'shards', 'done')
if not counts[1] then
  return nil
end
local total, committed = tonumber(counts[1]), redis.call('BITCOUNT', done)
local off = committed - tonumber(counts[2])
if off ~= 0 then
  redis.call('HSET', ctl, 'done', committed)
end

local items, listed = redis.call('LRANGE', pending, 0, -1), 0
local ranges = {}
for _, item in ipairs(items) do
  local first, last = string.match(item, '^(%d+)-?(%d*)$')
  first = tonumber(first)
  last = tonumber(last) or first
  listed = listed + last - first + 1
  table.insert(ranges, {first, last})
end
-- a token without a lease would never be reaped
local num_leases = redis.call('ZCARD', leases)
local accounted = listed + num_leases + committed + redis.call('HLEN', failures)
if accounted == total and redis.call('HLEN', tokens) <= num_leases then
  return {off, 0}
end

local elsewhere = {}
for _, shard in ipairs(redis.call('ZRANGE', leases, 0, -1)) do
  elsewhere[tonumber(shard)] = true
end
for _, shard in ipairs(redis.call('HKEYS', failures)) do
  elsewhere[tonumber(shard)] = true
end
for _, shard in ipairs(redis.call('HKEYS', tokens)) do
  if not elsewhere[tonumber(shard)] then
    redis.call('HDEL', tokens, shard)
  end
end

local bitmap = redis.call('GET', done) or ''
local missing = 0
local function put_back_missing(first, last)
  for shard = first, last do
    local byte = string.byte(bitmap, math.floor(shard / 8) + 1) or 0
    local is_done = math.floor(byte / 2 ^ (7 - shard % 8)) % 2 == 1
    if not is_done and not elsewhere[shard] then
      redis.call('RPUSH', pending, string.format('%d', shard))
      missing = missing + 1
    end
  end
end

table.sort(ranges, function(a, b) return a[1] < b[1] end)
local next_shard = 0
for _, range in ipairs(ranges) do
  put_back_missing(next_shard, range[1] - 1)
  next_shard = math.max(next_shard, range[2] + 1)
end
put_back_missing(next_shard, total - 1)
if missing > 0 then
  open_if_running()
end
return {off, missing}
