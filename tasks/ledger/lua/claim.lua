-- Choose a job, take its next pending shard and lease it.
-- Returns {job, shard, fence, lost attempts, output, deadline in ms, "1" if rows are blamed else "0", digest of the
-- job's record, round in which its error rows are computed anew or "0"}, or nil when nothing may be claimed.
--
-- KEYS[1] <p>open          ZSET    running jobs with pending shards, by priority (0 first)
-- KEYS[2] <p>worker:<id>   HASH    the worker; model and model_key tell what its engine has loaded, asked when it came last,
--                                  drained whether it is to take none; kind and offers what it is able to run
-- of the jobs it looks at: ctl, pend, lease, tok, done, att, bad, redo (see job/prelude.lua)
--
-- ARGV[1] prefix <p>   ARGV[2] worker   ARGV[3] ttl in ms   ARGV[4] starvation bound in ms
-- ARGV[5] version of records up to which it reads them   ARGV[6..] queues the worker serves
-- A model_key is "weights:engine": engines of equal weights follow each other without a load.

-- a worker that claims without ever announcing itself is remembered this long
local FORGET_MS = 3600000

local open_jobs, worker_key = KEYS[1], KEYS[2]
local prefix, worker, ttl, starve = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local now = now_ms()

local version, ability = tonumber(ARGV[5]), ability_of(prefix, worker)
local loaded = redis.call('HGET', worker_key, 'model_key') or ''

local queues = {}
for i = 6, #ARGV do
  queues[ARGV[i]] = true
end

local function key(job, name)
  return job_key(prefix, job, name)
end

-- Jobs whose records turned out to be damaged: they are left alone, the others are served.
local damaged = {}

-- The job as a candidate, nil where it is not for us. Fails where its record is damaged.
local function look(job)
  local ctl = redis.call('HMGET', key(job, 'ctl'), 'state', 'queue', 'model_key', 'served', 'version')
  if ctl[1] ~= 'running' or not queues[ctl[2]] or (ctl[5] or 0) - version > 0 or not is_able(ability, key(job, 'ctl')) then
    return nil
  end
  return {job = job, model = ctl[3], served = ctl[4] + 0, running = redis.call('HLEN', key(job, 'tok'))}
end

-- The open jobs of our queues that share the best priority.
local function candidates()
  local listed, found, best = redis.call('ZRANGE', open_jobs, 0, -1, 'WITHSCORES'), {}, nil
  for i = 1, #listed, 2 do
    local job, priority = listed[i], tonumber(listed[i + 1])
    if best and priority > best then
      break
    end
    local is_sound, entry = pcall(look, job)
    if is_sound and entry and not damaged[job] then
      best = priority
      table.insert(found, entry)
    end
  end
  return found
end

-- Fewest running shards first, then the one that has waited longest.
local function fairer(a, b)
  if b == nil or a.running ~= b.running then
    return b == nil or a.running < b.running
  end
  return a.served < b.served
end

local function weights_of(model)
  return model and string.match(model, '^[^:]*')
end

-- A job left out for the starvation bound goes first, longest wait first. Else the loaded engine is kept, or at least
-- its weights, unless their job already runs two shards more than another: then giving way is worth a load. Else fair
-- share.
local function choose(found)
  local fair, kept, near, starved = nil, nil, nil, nil
  for _, entry in ipairs(found) do
    if fairer(entry, fair) then
      fair = entry
    end
    if entry.model == loaded and fairer(entry, kept) then
      kept = entry
    end
    if weights_of(entry.model) == weights_of(loaded) and fairer(entry, near) then
      near = entry
    end
    if now - entry.served >= starve and (starved == nil or entry.served < starved.served) then
      starved = entry
    end
  end
  if starved then
    return starved.job
  end
  if kept and kept.running <= fair.running + 1 then
    return kept.job
  end
  if near and near.running <= fair.running + 1 then
    return near.job
  end
  return fair and fair.job
end

-- The first shard of the first item; the rest of a range goes back where it was.
local function pop(pend)
  local item = redis.call('LPOP', pend)
  if not item then
    return nil
  end
  local first, last = string.match(item, '^(%d+)-(%d+)$')
  if not first then
    return item
  end
  local next_shard = tonumber(first) + 1
  if next_shard == tonumber(last) then
    redis.call('LPUSH', pend, last)
  else
    redis.call('LPUSH', pend, string.format('%d-%s', next_shard, last))
  end
  return first
end

-- The next shard that is truly pending: a part may have been adopted while its shard was still listed here.
local function next_shard(job)
  while true do
    local shard = pop(key(job, 'pend'))
    if not shard then
      return nil
    end
    if redis.call('GETBIT', key(job, 'done'), shard) == 0
        and not redis.call('ZSCORE', key(job, 'lease'), shard)
        and redis.call('HEXISTS', key(job, 'bad'), shard) == 0 then
      return shard
    end
  end
end

local function grant(job, shard)
  local ctl = key(job, 'ctl')
  local fence = redis.call('HINCRBY', ctl, 'fence', 1)
  redis.call('HSET', ctl, 'served', now)
  redis.call('ZADD', key(job, 'lease'), now + ttl, shard)
  redis.call('HSET', key(job, 'tok'), shard, fence .. ':' .. worker)
  local model = redis.call('HMGET', ctl, 'model', 'model_key')
  redis.call('HSET', worker_key, 'model', model[1], 'model_key', model[2])
  if redis.call('EXISTS', key(job, 'pend')) == 0 then
    redis.call('ZREM', open_jobs, job)
  end
  local lost = redis.call('HGET', key(job, 'att'), shard) or '0'
  local blames_rows = redis.call('HGET', ctl, 'blames_rows') or '0'
  local is_due = redis.call('HEXISTS', key(job, 'redo'), shard) == 1
  local round = is_due and redis.call('HGET', ctl, 'round') or '0'
  local told = redis.call('HMGET', ctl, 'output', 'record')
  return {job, shard, fence, lost, told[1], now + ttl, blames_rows, told[2] or '', round}
end

redis.call('HSET', worker_key, 'asked', now)
local is_drained = redis.call('HGET', worker_key, 'drained') == '1'
if redis.call('PTTL', worker_key) < 0 then
  redis.call('PEXPIRE', worker_key, FORGET_MS)
end
while not is_drained do
  local job = choose(candidates())
  if not job then
    return nil
  end
  local is_sound, shard = pcall(next_shard, job)
  if not is_sound then
    damaged[job] = true
  elseif shard then
    return grant(job, shard)
  else
    redis.call('ZREM', open_jobs, job)
  end
end
