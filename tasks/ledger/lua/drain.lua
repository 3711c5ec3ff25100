-- Ask a worker to take no more shards, or to take some again. Returns 1, or 0 for a worker that is not known.
--
-- KEYS[1] <p>workers       ZSET  worker -> ms of its last sign of life
-- KEYS[2] <p>worker:<id>   HASH  drained: "1" when it is to take none
--
-- ARGV[1] worker   ARGV[2] "1" to drain, "0" to go on
local workers, worker_key, worker, wanted = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
if not redis.call('ZSCORE', workers, worker) then
  return 0
end
redis.call('HSET', worker_key, 'drained', wanted)
return 1
