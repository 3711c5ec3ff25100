-- Count a published part. Idempotent.
-- Returns "COMMITTED", "LAST" (nothing of the job is left to run), "ALREADY" (also where the part is as it was before a
-- retry of its error rows, which is to come) or "FENCED".
--
-- Touches ctl (its counts, its history's fields), leases, tokens, done, attempts, failures, progress, errors, past,
-- late, ends, redo, events, open_jobs, outbox, digests; <p>worker:<id> (rows).
--
-- ARGV[2] shard   ARGV[3] "fence:worker"
-- ARGV[4] "1" when the part was found in storage and verified: it is the truth, whoever holds the lease
-- ARGV[5] rows   ARGV[6] error rows   ARGV[7] prompt tokens   ARGV[8] output tokens
-- ARGV[9] offset of the digest   ARGV[10] digest
-- ARGV[11] ms the shard took, 0 when that is not known   ARGV[12] ms of it preparing rows   ARGV[13] ms of it writing
-- ARGV[14] how long that was, as a number of SHARD_SECONDS (schemas/histogram.py)   ARGV[15] error rows by kind, JSON
-- ARGV[16] reused rows   ARGV[17] their prompt tokens   ARGV[18] their output tokens
-- ARGV[19] the round in which rows of the part were retried last; of a retry, tokens and kinds are what it has added
local MAX_KINDS, OTHER_KINDS = 200, 'other reasons'
local shard, token, is_verified = ARGV[2], ARGV[3], ARGV[4] == '1'
local rows, error_rows, prompt_tokens, output_tokens = unpack(ARGV, 5, 8)
local digest_offset, digest, shard_ms, prepare_ms, write_ms, took, kinds = unpack(ARGV, 9, 15)
local reused_rows, reused_prompt_tokens, reused_output_tokens = unpack(ARGV, 16, 18)
local round = ARGV[19]
if redis.call('EXISTS', ctl) == 0 then
  return 'FENCED'
end
if redis.call('GETBIT', done, shard) == 1 then
  return 'ALREADY'
end
if not is_verified and not is_held(shard, token) then
  return 'FENCED'
end
local is_old = round + 0 < (redis.call('HGET', ctl, 'round') or 0) + 0 and error_rows + 0 > 0
if is_verified and is_old and redis.call('HEXISTS', redo, shard) == 1 then
  return 'ALREADY'
end

local holder = redis.call('HGET', tokens, shard) or ':'
pcall(add_line, ends, MAX_ENDS, shard, holder, shard_ms, rows, error_rows)
redis.call('SETBIT', done, shard, 1)
local worker = string.sub(all_jobs, 1, -5) .. 'worker:' .. (string.match(token, ':(.*)$') or '')
if redis.call('EXISTS', worker) == 1 then
  redis.call('HINCRBY', worker, 'rows', rows)
end
end_lease(shard)
redis.call('HDEL', attempts, shard)
redis.call('HDEL', failures, shard)
redis.call('HDEL', redo, shard)
redis.call('SETRANGE', KEYS[FIRST_DIGESTS], digest_offset, digest)
redis.call('HINCRBY', ctl, 'rows_done', rows)
redis.call('HINCRBY', ctl, 'error_rows', error_rows)
redis.call('HINCRBY', ctl, 'prompt_tokens', prompt_tokens)
redis.call('HINCRBY', ctl, 'output_tokens', output_tokens)
redis.call('HINCRBY', ctl, 'done', 1)
if shard_ms ~= '0' then
  redis.call('HINCRBY', ctl, 'shard_ms', shard_ms)
  redis.call('HINCRBY', ctl, 'prepare_ms', prepare_ms)
  redis.call('HINCRBY', ctl, 'write_ms', write_ms)
  redis.call('HINCRBY', ctl, 'took:' .. took, 1)
end
if reused_rows ~= '0' then
  redis.call('HINCRBY', ctl, 'reused_rows', reused_rows)
  redis.call('HINCRBY', ctl, 'reused_prompt_tokens', reused_prompt_tokens)
  redis.call('HINCRBY', ctl, 'reused_output_tokens', reused_output_tokens)
end
if kinds ~= '{}' then
  for kind, count in pairs(cjson.decode(kinds)) do
    local is_new = redis.call('HEXISTS', errors, kind) == 0
    local name = is_new and redis.call('HLEN', errors) >= MAX_KINDS and OTHER_KINDS or kind
    if redis.call('HINCRBY', errors, name, count) <= 0 then
      redis.call('HDEL', errors, name)
    end
  end
end
local is_last = num_left() == 0
take_point(now_ms(), is_last)
if not is_last then
  pause_if_spent()
end
return is_last and 'LAST' or 'COMMITTED'
