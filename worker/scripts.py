"""The worker's changes to jobs in Redis, each an atomic Lua script, which `results.py` runs.

Scripts are sent whole each time: cheaper than asking whether Redis still knows them. `contract/wire.py` has the keys.
"""

from contract import dead_letters, endings, lua

# KEYS: leases, the two sets of waiting jobs. ARGV: how the keys of records and of cancellations begin, the delivery,
# the length of a lease, the most deliveries, 1 if the worker is otherwise empty, then the ids.
# Answers for each job: {0} leave it: it has ended, another delivery has it, or it had its last one; {1} come back with
# an empty worker, because this delivery would be its last; {2, body, whether an earlier delivery began it, whether it
# was cancelled, seconds since it was accepted} run it. The same delivery may ask twice, as it does when the answer was
# lost.
BEGIN = (
    lua.NOW
    + """
local most, answers = tonumber(ARGV[5]), {}
local leases, begun = {}, {{}, {}}
for at = 7, #ARGV do
  local id, record = ARGV[at], ARGV[1] .. ARGV[at]
  local known = redis.call('HMGET', record, 'body', 'holder', 'attempts', 'priority', 'created')
  local mine, attempts = known[2] == ARGV[3], tonumber(known[3] or 0)
  local lapses = known[2] and not mine and redis.call('ZSCORE', KEYS[1], id)
  if not mine then attempts = attempts + 1 end
  if not known[1] or lapses and tonumber(lapses) > now or attempts > most then
    answers[#answers + 1] = {0}
  elseif not mine and attempts == most and ARGV[6] == '0' then
    answers[#answers + 1] = {1}
  else
    redis.call('HSET', record, 'state', 'running', 'holder', ARGV[3], 'attempts', attempts)
    leases[#leases + 1], leases[#leases + 2] = now + ARGV[4], id
    table.insert(begun[known[4] == 'bulk' and 2 or 1], id)
    local age = string.format('%.6f', math.max(0, now - (known[5] or now)))
    answers[#answers + 1] = {2, known[1], known[2] and 1 or 0, redis.call('EXISTS', ARGV[2] .. id), age}
  end
end
if #leases > 0 then redis.call('ZADD', KEYS[1], unpack(leases)) end
for number = 1, 2 do
  if #begun[number] > 0 then redis.call('ZREM', KEYS[1 + number], unpack(begun[number])) end
end
return answers
"""
)

# A delivery whose job has gone to another one changes nothing, because the other one continues the job's stream.
# KEYS, ARGV: those of endings.LUA, then the delivery.
_END = (
    """
local holder = redis.call('HGET', KEYS[2], 'holder')
if holder and holder ~= ARGV[10] then return 0 end
"""
    + endings.LUA
)
FINISH = _END + "return first and 1 or 0"

# KEYS as above, then the dead jobs. ARGV as above, then the most dead jobs. The secret of a webhook is not kept.
BURY = (
    dead_letters.KEEP
    + """
local webhook = redis.call('HGET', KEYS[2], 'webhook')
redis.call('HDEL', KEYS[2], 'webhook')
local record = redis.call('HGETALL', KEYS[2])
if webhook then redis.call('HSET', KEYS[2], 'webhook', webhook) end
"""
    + lua.NOW
    + _END
    + """
if first and cost then
  keep_dead(KEYS[11], ARGV[11], ARGV[6], now, cost, record)
end
return first and 1 or 0
"""
)

# KEYS: record, stream. ARGV: the delivery, the event's data, how long the stream is kept, the event's number from 1 on,
# by which it is known when it comes again, as it does when the answer was lost; the model that wrote it. An event that
# comes before the one in front of it, which Redis could not write, is refused: a stream has no holes.
CHARACTERS = """
if redis.call('HGET', KEYS[1], 'holder') ~= ARGV[1] then return 0 end
local missing = tonumber(ARGV[4]) - 1 - redis.call('XLEN', KEYS[2])
if missing < 0 then return 0 end
if missing > 0 then return redis.error_reply('GAP ' .. missing .. ' events of the stream are missing') end
redis.call('XADD', KEYS[2], '*', 'event', 'token', 'data', ARGV[2], 'model', ARGV[5])
return redis.call('EXPIRE', KEYS[2], ARGV[3])
"""

# KEYS: record, leases, the two sets of waiting jobs, the two queues. ARGV: id, delivery. Goes first in line.
GIVE_BACK = (
    lua.MESSAGES
    + lua.NOW
    + """
local known = redis.call('HMGET', KEYS[1], 'holder', 'priority', 'created')
if known[1] ~= ARGV[2] then return 0 end
local number = known[2] == 'bulk' and 2 or 1
redis.call('HINCRBY', KEYS[1], 'attempts', -1)
redis.call('HSET', KEYS[1], 'holder', '', 'state', 'queued')
redis.call('HDEL', KEYS[1], 'missed')
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZADD', KEYS[2 + number], known[3], ARGV[1])
send(KEYS[4 + number], {ARGV[1]}, ARGV[1] .. '.' .. now, 'RPUSH')
return 1
"""
)

# KEYS: leases, the two sets of waiting jobs. ARGV: how the keys of records begin, the length of a lease, then ids,
# deliveries and the bytes that are done in turn. Answers the ids of those that another delivery has. What has lapsed
# and was queued again, but not yet begun, is leased once more; its second message will find that.
RENEW = (
    lua.NOW
    + """
local lost = {}
for at = 3, #ARGV, 3 do
  local holder = redis.call('HGET', ARGV[1] .. ARGV[at], 'holder')
  if holder == ARGV[at + 1] then
    redis.call('HSET', ARGV[1] .. ARGV[at], 'done', ARGV[at + 2])
    if redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[at]) == 1 then
      redis.call('ZREM', KEYS[2], ARGV[at])
      redis.call('ZREM', KEYS[3], ARGV[at])
    end
  elseif holder then
    lost[#lost + 1] = ARGV[at]
  end
end
return lost
"""
)

# Queue again, first in line and the oldest foremost, (a) what has a lease that has lapsed, (b) what was queued, is on
# no queue and has no lease, and was missed by an earlier look: it went with a worker that took its message. Messages
# leave a queue in the order of their jobs' `created`, so what is older than the foremost is not on it. A worker that
# begins a job soon after it took the message is not late, however long that had waited. Two that look at once do no
# harm.
# What lies in the future got its time before Redis' clock was set back. Leases lapse a lease from now, which leaves
# live workers the time to renew them; jobs are as if they had come now.
# KEYS: leases, the two sets of waiting jobs, the two queues. ARGV: how the keys of records begin, how long after it was
# first missed a job is lost, the length of a lease, the most deliveries, the caller. Answers how many had lapsed, how
# many were lost, and id, body and deliveries of those that had their last; the caller has their lease, to end them.
REAP = (
    lua.MESSAGES
    + lua.NOW
    + """
local lapsed, lost, dead = 0, 0, {}
local again = {{}, {}}
local function future(key, after)
  return redis.call('ZRANGEBYSCORE', key, string.format('(%.6f', after), '+inf', 'LIMIT', 0, 1000)
end
for _, id in ipairs(future(KEYS[1], now + 2 * ARGV[3])) do redis.call('ZADD', KEYS[1], now + ARGV[3], id) end
for number = 1, 2 do
  for _, id in ipairs(future(KEYS[1 + number], now)) do
    redis.call('ZADD', KEYS[1 + number], now, id)
    if redis.call('EXISTS', ARGV[1] .. id) == 1 then redis.call('HSET', ARGV[1] .. id, 'created', now) end
  end
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
  local record = ARGV[1] .. id
  local known = redis.call('HMGET', record, 'body', 'attempts', 'priority', 'created')
  if not known[1] then
    redis.call('ZREM', KEYS[1], id)
  elseif tonumber(known[2]) >= tonumber(ARGV[4]) then
    redis.call('HSET', record, 'holder', ARGV[5])
    redis.call('ZADD', KEYS[1], now + ARGV[3], id)
    dead[#dead + 1] = {id, known[1], tonumber(known[2])}
  else
    local number = known[3] == 'bulk' and 2 or 1
    redis.call('ZREM', KEYS[1], id)
    redis.call('ZADD', KEYS[1 + number], known[4], id)
    redis.call('HSET', record, 'state', 'queued')
    redis.call('HDEL', record, 'missed')
    table.insert(again[number], {id, tonumber(known[4])})
    lapsed = lapsed + 1
  end
end
for number = 1, 2 do
  local waiting, queue = KEYS[1 + number], KEYS[3 + number]
  local before, foremost = '+inf', redis.call('LINDEX', queue, -1)
  if foremost then
    local created = redis.call('ZSCORE', waiting, first_of(foremost) or '')
    before = created and string.format('(%.7f', created)
  end
  local older = {}
  if before then
    older = redis.call('ZRANGEBYSCORE', waiting, '-inf', before, 'LIMIT', 0, 1000)
  end
  for _, id in ipairs(older) do
    local known = redis.call('HMGET', ARGV[1] .. id, 'body', 'missed', 'created')
    if not known[1] then
      redis.call('ZREM', waiting, id)
    elseif not known[2] then
      redis.call('HSET', ARGV[1] .. id, 'missed', now)
    elseif math.abs(now - known[2]) > tonumber(ARGV[2]) then
      table.insert(again[number], {id, tonumber(known[3])})
      lost = lost + 1
    end
  end
  table.sort(again[number], function(one, other) return one[2] > other[2] end)
  for _, job in ipairs(again[number]) do
    redis.call('HDEL', ARGV[1] .. job[1], 'missed')
    send(queue, {job[1]}, job[1] .. '.' .. now, 'RPUSH')
  end
end
return {lapsed, lost, dead}
"""
)
