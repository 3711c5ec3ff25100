-- A worker's sign of life.
--
-- KEYS[1] <p>workers       ZSET  worker -> ms of its last sign of life
-- KEYS[2] <p>worker:<id>   HASH  host, device, queues, slots, model_key
--
-- ARGV[1] worker   ARGV[2] ms after which a silent worker is forgotten   ARGV[3..] field and value in turn
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZADD', KEYS[1], now, ARGV[1])
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - ARGV[2])
for i = 3, #ARGV, 2 do
  redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
end
redis.call('PEXPIRE', KEYS[2], ARGV[2])
return now
