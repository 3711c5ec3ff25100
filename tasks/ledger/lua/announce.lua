-- A worker's sign of life. Returns 1 when it is asked to drain, else 0.
--
-- KEYS[1] <p>workers       ZSET  worker -> ms of its last sign of life
-- KEYS[2] <p>worker:<id>   HASH  host, device, queue, shards_in_flight, offers (one a line behind an empty one), kind (workers
--                                that are alike), reads (version of records);
--                                engine, state, device_use (JSON, may be empty);
--                                of claim.lua: model, model_key, asked; of commit.lua: rows;
--                                of drain.lua: drained
--
-- ARGV[1] worker   ARGV[2] ms after which a silent worker is forgotten   ARGV[3..] field and value in turn
local workers, worker_key, worker, forget_ms = KEYS[1], KEYS[2], ARGV[1], ARGV[2]
local now = now_ms()
redis.call('ZADD', workers, now, worker)
redis.call('ZREMRANGEBYSCORE', workers, '-inf', now - forget_ms)
for i = 3, #ARGV, 2 do
  redis.call('HSET', worker_key, ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', worker_key, forget_ms)
return redis.call('HGET', worker_key, 'drained') == '1' and 1 or 0
