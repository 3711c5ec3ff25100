-- Note whether a running job is stalled, and have it told once it was for long enough. Returns 1 when it was told now.
--
-- Touches ctl (state, stalled, notify), events, outbox.
--
-- ARGV[2] why it is stalled, "" when it is not   ARGV[3] ms after which it is told
local why, patience_ms = ARGV[2], tonumber(ARGV[3])
if why == '' or redis.call('HGET', ctl, 'state') ~= 'running' then
  redis.call('HDEL', ctl, 'stalled')
  return 0
end
local now, noted = now_ms(), redis.call('HGET', ctl, 'stalled')
if not noted then
  redis.call('HSET', ctl, 'stalled', string.format('%.0f', now))
  return 0
end
if string.find(noted, 'told', 1, true) or now - noted < patience_ms then
  return 0
end
redis.call('HSET', ctl, 'stalled', noted .. ' told')
note('stalled', nil, why)
tell('stalled')
return 1
