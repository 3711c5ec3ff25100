-- In front of every script about one job, after ../prelude.lua. Keys.job (tasks/keys.py) gives the keys in this order.
--
-- ctl        <p>{job}:ctl     HASH    state, queue, priority, model, model_key, output, notify; version and digest
--                                     (record) of its _job.json; refusal: why the job as a whole has failed; declined:<kind
--                                     of worker>: why it cannot run the job, until somebody starts it again;
--                                     shards, rows, done,
--                                     rows_done, error_rows, prompt_tokens, output_tokens, retries; fence; created,
--                                     served (its last claim), ended: in ms; of_rows "1" when it was stopped since
--                                     engines fail on different rows, blames_rows "1" when it was retried after that;
--                                     shard_ms, prepare_ms, write_ms (sums of committed shards), took:<n> (how many of
--                                     them took so long); reused_rows, reused_prompt_tokens, reused_output_tokens, as
--                                     PartRecord has them; round (retries of rows so far); budget_ms (GPU time
--                                     it may take), price (of a GPU hour), why ("budget" when it is paused for that),
--                                     stalled (since when, in ms; "told" behind that once it was); prediction (JSON, see
--                                     schemas/prediction.py); of its history: pointed,
--                                     kept (last points), step_ms,
--                                     num_workers, active_ms, worker_ms, num_gpus, gpu_ms
-- pending    <p>{job}:pend    LIST    pending shards, each item "7" or an inclusive range "7-99"
-- leases     <p>{job}:lease   ZSET    leased shard -> deadline in ms; one without a token rests until then
-- tokens     <p>{job}:tok     HASH    leased shard -> "fence:worker"
-- done       <p>{job}:done    STRING  bitmap, bit i set when shard i is committed
-- attempts   <p>{job}:att     HASH    shard -> leases lost so far
-- failures   <p>{job}:bad     HASH    failed shard -> "attempts:reason"
-- progress   <p>{job}:run     HASH    leased shard -> what its last beat told, see LeaseProgress
-- past       <p>{job}:past    LIST    points of the job's whole history, see progress/prelude.lua
-- late       <p>{job}:late    LIST    its last points, close together
-- errors     <p>{job}:errs    HASH    kind of error -> committed rows
-- events     <p>{job}:evts    LIST    what happened to the job, "ms kind shard text" with "-" for no shard; its last ones
-- ends       <p>{job}:ends    LIST    shards committed last, "ms shard fence:worker ms-it-took rows error-rows"
-- redo       <p>{job}:redo    HASH    shard whose part is there, and whose error rows are computed anew in this round -> how
--                                     many they are
-- open_jobs  <p>open          ZSET    running jobs with pending shards, by priority (0 first)
-- live_jobs  <p>live          SET     jobs that may be unfinished
-- all_jobs   <p>jobs          ZSET    every job, by creation time in ms
-- outbox     <p>outbox        ZSET    "job event its-ms url" -> when it is due, in ms
--            <p>outbox:hook   ZSET    the same for the hooks of operators, which see every job; its last ones
-- KEYS[19..] <p>{job}:dig:<n> STRING  fixed-width digests of committed parts, where a script needs them
--
-- ARGV[1]    job
local ctl, pending, leases, tokens, done, attempts, failures, progress, past, late, errors, events, ends, redo =
  unpack(KEYS, 1, 14)
local open_jobs, live_jobs, all_jobs, outbox = unpack(KEYS, 15, 18)
local FIRST_DIGESTS = 19
local MAX_EVENTS, MAX_ENDS, MAX_HOOKED = 200, 500, 1000
local job = ARGV[1]

local function is_held(shard, token)
  return redis.call('HGET', tokens, shard) == token
end

-- Drop a lease and all that was noted of it.
local function end_lease(shard)
  redis.call('ZREM', leases, shard)
  redis.call('HDEL', tokens, shard)
  redis.call('HDEL', progress, shard)
end

local function add_line(list, most, ...)
  redis.call('RPUSH', list, string.format('%.0f', now_ms()) .. ' ' .. table.concat({...}, ' '))
  redis.call('LTRIM', list, -most, -1)
end

-- Note something that happened, to the job or to one of its shards. What cannot be noted hinders nothing.
local function note(kind, shard, text)
  pcall(add_line, events, MAX_EVENTS, kind, shard or '-', text or '')
end

-- Let workers find the job when it runs; to be called after shards were queued.
local function open_if_running()
  local found = redis.call('HMGET', ctl, 'state', 'priority')
  if found[1] == 'running' then
    redis.call('ZADD', open_jobs, found[2], job)
  end
end

-- Let every worker try the job again.
local function forget_declined()
  for _, field in ipairs(redis.call('HKEYS', ctl)) do
    if string.sub(field, 1, 9) == 'declined:' then
      redis.call('HDEL', ctl, field)
    end
  end
end

-- Have the URLs of the job's webhooks told of an event, and the hooks of operators.
local function tell(event)
  local now = string.format('%.0f', now_ms())
  local member = job .. ' ' .. event .. ' ' .. now .. ' '
  for url in string.gmatch(redis.call('HGET', ctl, 'notify') or '', '[^\n]+') do
    redis.call('ZADD', outbox, now, member .. url)
  end
  -- bounded, since there may be no hook
  redis.call('ZADD', outbox .. ':hook', now, member .. 'hook')
  redis.call('ZREMRANGEBYRANK', outbox .. ':hook', 0, -MAX_HOOKED - 1)
end

-- Put the job into a final state and have it told.
local function end_job(state)
  local now = string.format('%.0f', now_ms())
  -- from here on time passes without workers
  redis.call('HSET', ctl, 'state', state, 'ended', now, 'num_workers', 0, 'num_gpus', 0)
  redis.call('HDEL', ctl, 'why', 'stalled')
  redis.call('ZREM', open_jobs, job)
  note(state)
  tell(state)
end

-- Shards that are neither committed nor failed.
local function num_left()
  local counts = redis.call('HMGET', ctl, 'shards', 'done')
  return counts[1] - counts[2] - redis.call('HLEN', failures)
end
