-- Drop what a finished job needs no more: all but its counters, its bitmap and its failures. Returns 1, or 0 when it
-- is not done.
--
-- Touches ctl (state), pending, leases, tokens, attempts, progress, digests (all that the job has).
if redis.call('HGET', ctl, 'state') ~= 'done' then
  return 0
end
redis.call('DEL', pending, leases, tokens, attempts, progress)
for i = FIRST_DIGESTS, #KEYS do
  redis.call('DEL', KEYS[i])
end
return 1
