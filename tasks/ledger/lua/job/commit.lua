-- Count a published part. Idempotent.
-- Returns "COMMITTED", "LAST" (nothing of the job is left to run), "ALREADY" or "FENCED".
--
-- Touches ctl (its counts), leases, tokens, done, attempts, failures, progress, digests.
--
-- ARGV[2] shard   ARGV[3] "fence:worker"
-- ARGV[4] "1" when the part was found in storage and verified: it is the truth, whoever holds the lease
-- ARGV[5] rows   ARGV[6] error rows   ARGV[7] prompt tokens   ARGV[8] output tokens
-- ARGV[9] offset of the digest   ARGV[10] digest
local shard, token, is_verified = ARGV[2], ARGV[3], ARGV[4] == '1'
local rows, error_rows, prompt_tokens, output_tokens = unpack(ARGV, 5, 8)
local digest_offset, digest = ARGV[9], ARGV[10]
if redis.call('EXISTS', ctl) == 0 then
  return 'FENCED'
end
if redis.call('GETBIT', done, shard) == 1 then
  return 'ALREADY'
end
if not is_verified and not is_held(shard, token) then
  return 'FENCED'
end

redis.call('SETBIT', done, shard, 1)
end_lease(shard)
redis.call('HDEL', attempts, shard)
redis.call('HDEL', failures, shard)
redis.call('SETRANGE', KEYS[FIRST_DIGESTS], digest_offset, digest)
redis.call('HINCRBY', ctl, 'rows_done', rows)
redis.call('HINCRBY', ctl, 'error_rows', error_rows)
redis.call('HINCRBY', ctl, 'prompt_tokens', prompt_tokens)
redis.call('HINCRBY', ctl, 'output_tokens', output_tokens)
redis.call('HINCRBY', ctl, 'done', 1)
return num_left() == 0 and 'LAST' or 'COMMITTED'
