-- In front of every script that tells how far a job is, or notes it in its history; after ../prelude.lua.
--
-- A point of a history is a line of numbers in the order of HistoryPoint (schemas/history.py). `past` holds the whole
-- history: when it is full its step doubles and every second point goes, so a job of a week takes no more room than one
-- of an hour. `late` holds the last two minutes, of which present rates are told.
local POINT_MS, MAX_LATE, MAX_PAST = 2000, 64, 400
-- nobody is at work while no beat comes for so long
local SILENCE_MS = 30000
-- points between which present rates are taken
local NUM_RECENT = 30

-- What running shards have told: {rows, error rows, prompt tokens, output tokens, both computed, the output tokens that
-- a row is likely to have, in thousandths: the mean over shards by their finished rows; reused rows, and their prompt and
-- output tokens}, and of each worker that holds some {shards, shards that have their engine}.
local NUM_SUMS = 6
local function running_now()
  local sums, holders, told, num_expected = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, {}, {}, 0
  local flat = redis.call('HGETALL', progress)
  for i = 1, #flat, 2 do
    local place, rows = 0, 1
    for number in string.gmatch(flat[i + 1], '%d+') do
      place = place + 1
      if place <= NUM_SUMS then
        sums[place] = sums[place] + number
        rows = place == 1 and rows + number or rows
      elseif place == NUM_SUMS + 1 then
        told[flat[i]] = tonumber(number)
      elseif place > NUM_SUMS + 2 then
        sums[place - 1] = (sums[place - 1] or 0) + number
      elseif number ~= '0' then
        sums[7], num_expected = sums[7] + number * rows, num_expected + rows
      end
    end
  end
  sums[7] = num_expected > 0 and sums[7] / num_expected or 0
  local held = redis.call('HGETALL', tokens)
  for i = 1, #held, 2 do
    local worker = string.match(held[i + 1], ':(.*)$') or ''
    local mine = holders[worker] or {0, 0}
    holders[worker] = {mine[1] + 1, mine[2] + (told[held[i]] or 0)}
  end
  return sums, holders
end

-- Whether a shard has its engine, by what its beat told.
local function is_computing(told)
  return string.match(told, '^%d+:%d+:%d+:%d+:%d+:%d+:1:') ~= nil
end

-- Sums over the engines of workers that compute: requests running and waiting, cache use in thousandths (their mean),
-- positions computed, padding, prompt tokens, those that a cache saved, preemptions.
local COUNTED = {'running', 'waiting', 'kv_use', 'computed_tokens', 'padding_tokens', 'prompt_tokens', 'cached_tokens',
  'preemptions'}
local function engine_sums(holders)
  local sums, num_engines, prefix = {0, 0, 0, 0, 0, 0, 0, 0}, 0, string.sub(all_jobs, 1, -5)
  for worker, mine in pairs(holders) do
    local text = mine[2] > 0 and redis.call('HGET', prefix .. 'worker:' .. worker, 'engine')
    if text and text ~= '' then
      local counted = cjson.decode(text)
      num_engines = num_engines + 1
      for place, name in ipairs(COUNTED) do
        local value = counted[name]
        sums[place] = sums[place] + (type(value) == 'number' and value or 0)
      end
    end
  end
  sums[3] = num_engines > 0 and 1000 * sums[3] / num_engines or 0
  return sums
end

-- Every second point of `past`, the first and the last among them.
local function thin()
  local points = redis.call('LRANGE', past, 0, -1)
  redis.call('DEL', past)
  for i = 1, #points do
    if i % 2 == 1 or i == #points then
      redis.call('RPUSH', past, points[i])
    end
  end
end

-- Time with a worker that computes, and the same times such workers, in ms: up to now.
local function active_until(now)
  local noted = redis.call('HMGET', ctl, 'pointed', 'num_workers', 'active_ms', 'worker_ms')
  local gap, num_workers = now - (noted[1] or now), tonumber(noted[2] or 0)
  local passed = gap <= SILENCE_MS and num_workers > 0 and gap or 0
  return (noted[3] or 0) + passed, (noted[4] or 0) + passed * num_workers
end

-- Time of cards that workers kept for the job, the loading of its model included, in ms: up to now.
local function gpu_ms_until(now)
  local noted = redis.call('HMGET', ctl, 'pointed', 'num_gpus', 'gpu_ms')
  local gap, num_gpus = now - (noted[1] or now), tonumber(noted[2] or 0)
  return (noted[3] or 0) + (gap <= SILENCE_MS and gap or 0) * num_gpus
end

-- Cards of a worker by the name of its device, such as "cuda:0,1"; a CPU counts as one.
local function num_cards(worker)
  local device = redis.call('HGET', string.sub(all_jobs, 1, -5) .. 'worker:' .. worker, 'device') or ''
  local _, commas = string.gsub(device, ',', '')
  return commas + 1
end

local function try_to_take_point(now, must)
  local pointed = redis.call('HGET', ctl, 'pointed')
  if not must and pointed and now - pointed < POINT_MS then
    return
  end
  local sums, holders = running_now()
  local num_running, num_computing, num_workers, num_gpus = 0, 0, 0, 0
  for worker, mine in pairs(holders) do
    num_gpus = num_gpus + num_cards(worker)
    num_running, num_computing = num_running + mine[1], num_computing + mine[2]
    num_workers = num_workers + (mine[2] > 0 and 1 or 0)
  end
  local active_ms, worker_ms = active_until(now)
  local gpu_ms = gpu_ms_until(now)
  local counts = redis.call('HMGET', ctl, 'rows_done', 'error_rows', 'prompt_tokens', 'output_tokens', 'prompt_tokens',
    'output_tokens', 'reused_rows', 'reused_prompt_tokens', 'reused_output_tokens')
  local point = {now}
  for place = 1, NUM_SUMS do
    table.insert(point, sums[place] + counts[place])
  end
  for _, value in ipairs({num_running, num_computing, num_workers, active_ms, worker_ms}) do
    table.insert(point, value)
  end
  for _, value in ipairs(engine_sums(holders)) do
    table.insert(point, value)
  end
  table.insert(point, sums[7])
  for place = 7, 9 do
    table.insert(point, sums[place + 1] + (counts[place] or 0))
  end
  table.insert(point, gpu_ms)
  for place, value in ipairs(point) do
    point[place] = string.format('%.0f', value)
  end
  local line = table.concat(point, ':')
  redis.call('RPUSH', late, line)
  redis.call('LTRIM', late, -MAX_LATE, -1)
  local kept = redis.call('HMGET', ctl, 'kept', 'step_ms')
  local step = tonumber(kept[2] or POINT_MS)
  if must or not kept[1] or now - kept[1] >= step then
    redis.call('RPUSH', past, line)
    redis.call('HSET', ctl, 'kept', now)
    if redis.call('LLEN', past) > MAX_PAST then
      thin()
      redis.call('HSET', ctl, 'step_ms', 2 * step)
    end
  end
  redis.call('HSET', ctl, 'pointed', now, 'num_workers', num_workers, 'active_ms', active_ms, 'worker_ms', worker_ms,
    'num_gpus', num_gpus, 'gpu_ms', gpu_ms)
end

-- Note how far the job is, if it is time to or `must`. What cannot be noted, for a worker's entry is damaged or an
-- earlier point, must not keep a lease from being renewed or a part from being counted.
local function take_point(now, must)
  pcall(try_to_take_point, now, must)
end

local function is_spent()
  local found = redis.call('HMGET', ctl, 'budget_ms', 'gpu_ms')
  return found[1] and found[1] ~= '' and (found[2] or 0) + 0 >= found[1] + 0
end

-- Pause a running job whose budget is spent. Returns whether it was.
local function pause_if_spent()
  if redis.call('HGET', ctl, 'state') ~= 'running' or not is_spent() then
    return false
  end
  redis.call('HSET', ctl, 'state', 'paused', 'why', 'budget', 'num_workers', 0, 'num_gpus', 0)
  redis.call('ZREM', open_jobs, job)
  note('paused', nil, 'its budget is spent')
  tell('paused')
  return true
end
