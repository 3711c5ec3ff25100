-- Every job and when it was registered, the newest first. Returns them as JSON, one after the other: 10,000 replies of
-- their own would take the client ten times as long.
--
-- KEYS[1] <p>jobs   ZSET   jobs by ms since the Unix epoch
return cjson.encode(redis.call('ZREVRANGE', KEYS[1], 0, -1, 'WITHSCORES'))
