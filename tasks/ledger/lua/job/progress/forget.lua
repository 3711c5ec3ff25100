-- Drop what a finished job needs no more: all but its counters, its bitmap, its failures, its events
-- and a thinned history. Returns
-- 1, or 0 when it is not done.
--
-- Touches ctl (state), pending, leases, tokens, attempts, progress, past, late, ends, redo, digests (all that the job has).
--
-- ARGV[2] points of its history to keep at most
local max_points = tonumber(ARGV[2])
if redis.call('HGET', ctl, 'state') ~= 'done' then
  return 0
end
redis.call('DEL', pending, leases, tokens, attempts, progress, late, ends, redo)
while redis.call('LLEN', past) > max_points do
  thin()
end
for i = FIRST_DIGESTS, #KEYS do
  redis.call('DEL', KEYS[i])
end
return 1
