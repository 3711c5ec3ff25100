-- Count a published part. Idempotent.
-- Returns "COMMITTED", "LAST" (nothing of the job is left to run), "ALREADY" or "FENCED".
--
-- KEYS[1] <p>{job}:ctl    HASH    shards, done, rows_done, error_rows, prompt_tokens, output_tokens
-- KEYS[3] <p>{job}:lease  ZSET    leased shard -> deadline in ms
-- KEYS[4] <p>{job}:tok    HASH    leased shard -> "fence:worker"
-- KEYS[5] <p>{job}:done   STRING  bitmap of committed shards
-- KEYS[6] <p>{job}:att    HASH    shard -> leases lost
-- KEYS[7] <p>{job}:bad    HASH    failed shard -> "attempts:reason"
-- KEYS[8] <p>{job}:run    HASH    leased shard -> progress
-- KEYS[11] <p>{job}:dig:<n>  STRING  fixed-width digests of committed parts
--
-- ARGV[1] shard   ARGV[2] "fence:worker"
-- ARGV[3] "1" when the part was found in storage and verified: it is the truth, whoever holds the lease
-- ARGV[4] rows   ARGV[5] error rows   ARGV[6] prompt tokens   ARGV[7] output tokens
-- ARGV[8] offset of the digest   ARGV[9] digest
local ctl, shard = KEYS[1], ARGV[1]
if redis.call('EXISTS', ctl) == 0 then
  return 'FENCED'
end
if redis.call('GETBIT', KEYS[5], shard) == 1 then
  return 'ALREADY'
end
if ARGV[3] ~= '1' and redis.call('HGET', KEYS[4], shard) ~= ARGV[2] then
  return 'FENCED'
end

redis.call('SETBIT', KEYS[5], shard, 1)
redis.call('ZREM', KEYS[3], shard)
for _, key in ipairs({KEYS[4], KEYS[6], KEYS[7], KEYS[8]}) do
  redis.call('HDEL', key, shard)
end
redis.call('SETRANGE', KEYS[11], ARGV[8], ARGV[9])
redis.call('HINCRBY', ctl, 'rows_done', ARGV[4])
redis.call('HINCRBY', ctl, 'error_rows', ARGV[5])
redis.call('HINCRBY', ctl, 'prompt_tokens', ARGV[6])
redis.call('HINCRBY', ctl, 'output_tokens', ARGV[7])

local done = redis.call('HINCRBY', ctl, 'done', 1)
if done + redis.call('HLEN', KEYS[7]) == tonumber(redis.call('HGET', ctl, 'shards')) then
  return 'LAST'
end
return 'COMMITTED'
