-- Take one notice that is due, and put it off: whoever takes it and dies leaves it to the next. Returns notice and how
-- often it was taken, or nil when none is due.
--
-- KEYS[1] <p>outbox        ZSET  "job state ended-ms url" -> when it is due, in ms
-- KEYS[2] <p>outbox:tries  HASH  notice -> how often it was taken
--
-- ARGV[1] ms until it is due again after the first try, twice as long after each   ARGV[2] the longest such time
-- ARGV[3] how many seconds ahead to look for one
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now + 1000 * tonumber(ARGV[3]), 'LIMIT', 0, 1)
if #found == 0 then
  return nil
end
local tries = redis.call('HINCRBY', KEYS[2], found[1], 1)
local rest = math.min(tonumber(ARGV[1]) * 2 ^ (tries - 1), tonumber(ARGV[2]))
redis.call('ZADD', KEYS[1], string.format('%.0f', now + rest), found[1])
return {found[1], tries}
