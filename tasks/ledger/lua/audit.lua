-- Check a job's counter against its bitmap, and its shards against the places they may be in; put back what is in
-- none of them. Returns {how far `done` was off, shards put back}, or nil for an unknown job.
--
-- KEYS[1] <p>{job}:ctl    HASH    state, priority, shards, done
-- KEYS[2] <p>{job}:pend   LIST    pending shards, each item "7" or an inclusive range "7-99"
-- KEYS[3] <p>{job}:lease  ZSET    leased shard -> deadline in ms
-- KEYS[4] <p>{job}:tok    HASH    leased shard -> "fence:worker"
-- KEYS[5] <p>{job}:done   STRING  bitmap of committed shards
-- KEYS[7] <p>{job}:bad    HASH    failed shard -> "attempts:reason"
-- KEYS[9] <p>open         ZSET    running jobs with pending shards, by priority
--
-- ARGV[1] job
local ctl, pend, lease, tok, done, bad = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[7]
local counts = redis.call('HMGET', ctl, 'shards', 'done', 'state', 'priority')
if not counts[1] then
  return nil
end
local total, committed = tonumber(counts[1]), redis.call('BITCOUNT', done)
local off = committed - tonumber(counts[2])
if off ~= 0 then
  redis.call('HSET', ctl, 'done', committed)
end

local items, listed = redis.call('LRANGE', pend, 0, -1), 0
local ranges = {}
for _, item in ipairs(items) do
  local first, last = string.match(item, '^(%d+)-?(%d*)$')
  first = tonumber(first)
  last = tonumber(last) or first
  listed = listed + last - first + 1
  table.insert(ranges, {first, last})
end
-- a token without a lease would never be reaped
local leases = redis.call('ZCARD', lease)
local accounted = listed + leases + committed + redis.call('HLEN', bad)
if accounted == total and redis.call('HLEN', tok) <= leases then
  return {off, 0}
end

local elsewhere = {}
for _, shard in ipairs(redis.call('ZRANGE', lease, 0, -1)) do
  elsewhere[tonumber(shard)] = true
end
for _, shard in ipairs(redis.call('HKEYS', bad)) do
  elsewhere[tonumber(shard)] = true
end
for _, shard in ipairs(redis.call('HKEYS', tok)) do
  if not elsewhere[tonumber(shard)] then
    redis.call('HDEL', tok, shard)
  end
end

local bitmap = redis.call('GET', done) or ''
local missing = 0
local function put_back_missing(first, last)
  for shard = first, last do
    local byte = string.byte(bitmap, math.floor(shard / 8) + 1) or 0
    local is_done = math.floor(byte / 2 ^ (7 - shard % 8)) % 2 == 1
    if not is_done and not elsewhere[shard] then
      redis.call('RPUSH', pend, string.format('%d', shard))
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
if missing > 0 and counts[3] == 'running' then
  redis.call('ZADD', KEYS[9], counts[4], ARGV[1])
end
return {off, missing}
