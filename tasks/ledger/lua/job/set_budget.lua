-- Give a job another budget. Returns 1, or nil for an unknown job.
--
-- Touches ctl (budget_ms, price).
--
-- ARGV[2] ms of cards that it may take, "" for no bound   ARGV[3] price of a card for an hour, "" where that is not known
if redis.call('EXISTS', ctl) == 0 then
  return nil
end
redis.call('HSET', ctl, 'budget_ms', ARGV[2], 'price', ARGV[3])
return 1
