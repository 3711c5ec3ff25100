-- The living workers. Returns rows {name, ms last seen, host, device, queues, shards in flight, model or "", engine or ""}.
--
-- KEYS[1] <p>workers       ZSET  worker -> ms of its last sign of life
-- <p>worker:<id>           HASH  host, device, queue, shards_in_flight, model, engine
--
-- ARGV[1] prefix <p>   ARGV[2] ms of silence after which a worker counts as gone
local workers, prefix, silence_ms = KEYS[1], ARGV[1], ARGV[2]
local rows = {}
local listed = redis.call('ZRANGEBYSCORE', workers, now_ms() - silence_ms, '+inf', 'WITHSCORES')
for i = 1, #listed, 2 do
  local name, seen = listed[i], listed[i + 1]
  local key = prefix .. 'worker:' .. name
  local info = redis.call('HMGET', key, 'host', 'device', 'queue', 'shards_in_flight', 'model', 'engine')
  if info[4] then
    table.insert(rows, {name, seen, info[1], info[2], info[3], info[4], info[5] or '', info[6] or ''})
  end
end
return rows
