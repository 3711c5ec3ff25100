-- Register a job, unless it is known already. Returns 1 when it is new, else 0.
--
-- KEYS[1] <p>{job}:ctl    HASH    state, totals, labels and counters of the job
-- KEYS[2] <p>{job}:pend   LIST    pending shards, each item "7" or an inclusive range "7-99"
-- KEYS[5] <p>{job}:done   STRING  bitmap, bit i set when shard i is committed
-- KEYS[9] <p>open         ZSET    running jobs with pending shards, by priority
-- KEYS[10] <p>live        SET     jobs that may still need somebody
-- KEYS[11] <p>jobs        ZSET    every job, by creation time in ms
--
-- ARGV[1] job   ARGV[2] bitmap of committed shards, may be empty   ARGV[3] number of pending items
-- ARGV[4..] pending items, then field and value of ctl in turn
local ctl, pend, done, open, jobs = KEYS[1], KEYS[2], KEYS[5], KEYS[9], KEYS[11]
if redis.call('EXISTS', ctl) == 1 then
  return 0
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local num_items = tonumber(ARGV[3])

-- left over from a registration that was cut short by the loss of ctl
redis.call('DEL', pend, KEYS[3], KEYS[4], done, KEYS[6], KEYS[7], KEYS[8])
for i = 4, 3 + num_items do
  redis.call('RPUSH', pend, ARGV[i])
end
for i = 4 + num_items, #ARGV, 2 do
  redis.call('HSET', ctl, ARGV[i], ARGV[i + 1])
end
redis.call('HSET', ctl, 'state', 'running', 'created', now, 'served', now, 'retries', 0)
-- from the clock, not from 0: of a job that was forgotten and has come back somebody may still hold an old token
redis.call('HSET', ctl, 'fence', time[1])
if #ARGV[2] > 0 then
  redis.call('SET', done, ARGV[2])
end
redis.call('ZADD', jobs, now, ARGV[1])
redis.call('SADD', KEYS[10], ARGV[1])
if num_items > 0 then
  redis.call('ZADD', open, redis.call('HGET', ctl, 'priority'), ARGV[1])
end
return 1
