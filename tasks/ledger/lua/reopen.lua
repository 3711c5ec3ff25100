-- Queue a committed shard again because its part has vanished from storage. Returns 1, or 0 when it was not committed.
--
-- KEYS[1] <p>{job}:ctl    HASH    state, priority, done, rows_done, error_rows
-- KEYS[2] <p>{job}:pend   LIST    pending shards
-- KEYS[5] <p>{job}:done   STRING  bitmap of committed shards
-- KEYS[9] <p>open         ZSET    running jobs with pending shards, by priority
-- KEYS[11] <p>{job}:dig:<n>  STRING  fixed-width digests of committed parts
--
-- ARGV[1] shard   ARGV[2] job   ARGV[3] rows   ARGV[4] error rows   ARGV[5] offset of the digest   ARGV[6] zeros
if redis.call('GETBIT', KEYS[5], ARGV[1]) == 0 then
  return 0
end
redis.call('SETBIT', KEYS[5], ARGV[1], 0)
redis.call('SETRANGE', KEYS[11], ARGV[5], ARGV[6])
redis.call('HINCRBY', KEYS[1], 'done', -1)
redis.call('HINCRBY', KEYS[1], 'rows_done', -ARGV[3])
redis.call('HINCRBY', KEYS[1], 'error_rows', -ARGV[4])
redis.call('LPUSH', KEYS[2], ARGV[1])
if redis.call('HGET', KEYS[1], 'state') == 'running' then
  redis.call('ZADD', KEYS[9], redis.call('HGET', KEYS[1], 'priority'), ARGV[2])
end
return 1
