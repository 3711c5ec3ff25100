-- Queue shards whose error rows are to be computed anew. They count as not committed until then; their parts stay.
-- Without shards it opens the job for those that were queued: workers find none before all are there.
-- Returns 1, or 0 when the job is not running in this round any more.
--
-- Touches ctl (state, priority, round, done, rows_done, error_rows), pending, done, redo, open_jobs, digests.
--
-- ARGV[2] round   ARGV[3] zeros   ARGV[4..] shard, rows, error rows, offset of the digest in turn; all of them have
-- their digests in the one string of KEYS[FIRST_DIGESTS]
local round, zeros = ARGV[2], ARGV[3]
local found = redis.call('HMGET', ctl, 'state', 'round')
if found[1] ~= 'running' or found[2] ~= round then
  return 0
end
for i = 4, #ARGV, 4 do
  local shard, rows, error_rows, digest_offset = unpack(ARGV, i, i + 3)
  redis.call('HSET', redo, shard, error_rows)
  if redis.call('GETBIT', done, shard) == 1 then
    redis.call('SETBIT', done, shard, 0)
    redis.call('SETRANGE', KEYS[FIRST_DIGESTS], digest_offset, zeros)
    redis.call('HINCRBY', ctl, 'done', -1)
    redis.call('HINCRBY', ctl, 'rows_done', -rows)
    redis.call('HINCRBY', ctl, 'error_rows', -error_rows)
    redis.call('RPUSH', pending, shard)
  end
end
if #ARGV < 4 and redis.call('EXISTS', pending) == 1 then
  open_if_running()
end
return 1
