-- The living workers. Returns rows {name, ms last seen, the fields asked for, "" where a worker has none}.
--
-- KEYS[1] <p>workers       ZSET  worker -> ms of its last sign of life
-- <p>worker:<id>           HASH  see announce.lua
--
-- ARGV[1] prefix <p>   ARGV[2] ms of silence after which a worker counts as gone
-- ARGV[3..] fields; a worker without the first one has never announced itself
local workers, prefix, silence_ms = KEYS[1], ARGV[1], ARGV[2]
local rows = {}
local listed = redis.call('ZRANGEBYSCORE', workers, now_ms() - silence_ms, '+inf', 'WITHSCORES')
for i = 1, #listed, 2 do
  local info = redis.call('HMGET', prefix .. 'worker:' .. listed[i], unpack(ARGV, 3))
  if info[1] then
    local row = {listed[i], listed[i + 1]}
    for place = 1, #ARGV - 2 do
      table.insert(row, info[place] or '')
    end
    table.insert(rows, row)
  end
end
return rows
