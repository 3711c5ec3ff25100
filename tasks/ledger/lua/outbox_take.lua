-- Take one notice that is due, and put it off: whoever takes it and dies leaves it to the next. Returns notice and how
-- often it was taken, or nil when none is due.
--
-- KEYS[1] <p>outbox        ZSET  "job state ended-ms url" -> when it is due, in ms
-- KEYS[2] <p>outbox:tries  HASH  notice -> how often it was taken
--
-- ARGV[1] ms until it is due again after the first try, twice as long after each   ARGV[2] the longest such time
-- ARGV[3] how many seconds ahead to look for one
local outbox, tries_of = KEYS[1], KEYS[2]
local first_rest, longest_rest, ahead_s = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local notice = redis.call('ZRANGEBYSCORE', outbox, '-inf', now + 1000 * ahead_s, 'LIMIT', 0, 1)[1]
if not notice then
  return nil
end
local tries = redis.call('HINCRBY', tries_of, notice, 1)
local rest = math.min(first_rest * 2 ^ (tries - 1), longest_rest)
redis.call('ZADD', outbox, string.format('%.0f', now + rest), notice)
return {notice, tries}
