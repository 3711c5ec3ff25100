-- Drop what a finished job needs no more, its counters and its bitmap aside.
--
-- KEYS[1] <p>{job}:ctl    HASH  state
-- KEYS[2..4] and KEYS[6], KEYS[8]: pend, lease, tok, att, run (see claim.lua)
-- KEYS[11..] <p>{job}:dig:<n>  STRING  digests of committed parts
if redis.call('HGET', KEYS[1], 'state') ~= 'done' then
  return 0
end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[6], KEYS[8])
for i = 11, #KEYS do
  redis.call('DEL', KEYS[i])
end
return 1
