-- Queue a committed shard again because its part has vanished from storage. Returns 1, or 0 when it was not committed.
--
-- Touches ctl (state, priority, done, rows_done, error_rows), pending, done, events, open_jobs, digests.
--
-- ARGV[2] shard   ARGV[3] rows   ARGV[4] error rows   ARGV[5] offset of the digest   ARGV[6] zeros
local shard, rows, error_rows, digest_offset, zeros = unpack(ARGV, 2, 6)
if redis.call('GETBIT', done, shard) == 0 then
  return 0
end
redis.call('SETBIT', done, shard, 0)
redis.call('SETRANGE', KEYS[FIRST_DIGESTS], digest_offset, zeros)
redis.call('HINCRBY', ctl, 'done', -1)
redis.call('HINCRBY', ctl, 'rows_done', -rows)
redis.call('HINCRBY', ctl, 'error_rows', -error_rows)
redis.call('LPUSH', pending, shard)
note('reopened', shard, 'its part has vanished')
open_if_running()
return 1
