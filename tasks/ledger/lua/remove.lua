-- Drop a job, whatever it was at; its output stays. Returns 1, or 0 when it has not ended long enough ago or has been
-- registered anew since it was looked at.
--
-- KEYS[1..8] of the job: ctl, pend, lease, tok, done, att, bad, run (see claim.lua)
-- KEYS[9] <p>open         ZSET  running jobs with pending shards, by priority
-- KEYS[10] <p>live        SET   jobs that may still need somebody
-- KEYS[11] <p>jobs        ZSET  every job, by creation time in ms
-- KEYS[12..] <p>{job}:dig:<n>  STRING  digests of committed parts
--
-- ARGV[1] job   ARGV[2] ms that must have passed since its end, -1 to drop it in any state
-- ARGV[3] when it was registered, in ms; '' to drop it whenever that was
if ARGV[3] ~= '' and redis.call('HGET', KEYS[1], 'created') ~= ARGV[3] then
  return 0
end
if ARGV[2] ~= '-1' and redis.call('EXISTS', KEYS[1]) == 1 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  local ended = redis.call('HGET', KEYS[1], 'ended')
  if not ended or now - ended < tonumber(ARGV[2]) then
    return 0
  end
end
redis.call('ZREM', KEYS[9], ARGV[1])
redis.call('SREM', KEYS[10], ARGV[1])
redis.call('ZREM', KEYS[11], ARGV[1])
for i = 1, #KEYS do
  if i < 9 or i > 11 then
    redis.call('DEL', KEYS[i])
  end
end
return 1
