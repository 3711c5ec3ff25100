-- Some fields of many jobs. Returns them as JSON: a list a job, false for a field that is not there or cannot be read.
--
-- of each job: ctl (see job/prelude.lua)
--
-- ARGV[1] prefix <p>   ARGV[2] fields, one a line   ARGV[3..] jobs
local prefix, fields = ARGV[1], {}
for field in string.gmatch(ARGV[2], '[^\n]+') do
  table.insert(fields, field)
end
local found = {}
for place = 3, #ARGV do
  local row = redis.pcall('HMGET', job_key(prefix, ARGV[place], 'ctl'), unpack(fields))
  -- a damaged record must not keep anybody from seeing the others
  found[place - 2] = row.err and {false} or row
end
return cjson.encode(found)
