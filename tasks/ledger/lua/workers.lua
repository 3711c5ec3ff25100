-- The living workers. Returns rows {name, ms last seen, host, device, queues, slots, model or ""}.
--
-- KEYS[1] <p>workers       ZSET  worker -> ms of its last sign of life
-- <p>worker:<id>           HASH  host, device, queue, slots, model
--
-- ARGV[1] prefix <p>   ARGV[2] ms of silence after which a worker counts as gone
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local rows = {}
local listed = redis.call('ZRANGEBYSCORE', KEYS[1], now - ARGV[2], '+inf', 'WITHSCORES')
for i = 1, #listed, 2 do
  local key = ARGV[1] .. 'worker:' .. listed[i]
  local info = redis.call('HMGET', key, 'host', 'device', 'queue', 'slots', 'model')
  if info[4] then
    table.insert(rows, {listed[i], listed[i + 1], info[1], info[2], info[3], info[4], info[5] or ''})
  end
end
return rows
