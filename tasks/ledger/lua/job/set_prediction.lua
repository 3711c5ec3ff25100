-- Note what was predicted of a job. Returns 1, or nil for an unknown job.
--
-- Touches ctl (prediction).
--
-- ARGV[2] the prediction as JSON
if redis.call('EXISTS', ctl) == 0 then
  return nil
end
redis.call('HSET', ctl, 'prediction', ARGV[2])
return 1
