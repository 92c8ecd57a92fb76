"""Lua that several scripts share: the time, a job counted in, a message on a queue. Each is put before a script.

`contract/endings.py` has how a job ends, `contract/dead_letters.py` what happens to one that was given up.
"""

import json

from contract import wire

# now: Unix time in seconds by the clock of Redis. time: the same as (seconds, microseconds).
NOW = """
local time = redis.call('TIME')
local now = time[1] + time[2] / 1e6
"""

# count_in(open, load, waiting, id, texts, bytes, now): a job without a worker counts against the limits of the queue.
# Returns false, and does nothing, where it was counted before.
COUNT_IN = """
local function count_in(open, load, waiting, id, texts, bytes, now)
  if redis.call('HSETNX', open, id, texts .. ':' .. bytes) == 0 then return false end
  redis.call('HINCRBY', load, 'texts', texts)
  redis.call('HINCRBY', load, 'bytes', bytes)
  redis.call('ZADD', waiting, now, id)
  return true
end
"""

# A message as Celery (message protocol 2) would send it over Kombu's Redis transport. `@` stands for its id, which is
# that of its first job, `~` for its delivery tag, which no other message of the same job may have at the same time,
# `#` for its queue and `$` for the ids of its jobs. The body is [positional arguments, keyword arguments, options]; the
# task's one argument is the list of ids.
_MESSAGE = json.dumps(
    {
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": {"lang": "py", "task": wire.TASK, "id": "@", "root_id": "@", "argsrepr": "", "kwargsrepr": ""},
        "properties": {
            "correlation_id": "@",
            "delivery_tag": "~",
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": "#"},
            "priority": 0,
            "body_encoding": "utf-8",
        },
        "body": '[[["$"]], {}, {}]',
    }
)
# send(queue, ids, delivery tag, 'LPUSH' to the end of the queue or 'RPUSH' to its front). first_of(message): the id of
# its first job.
MESSAGES = (
    "local function send(queue, ids, tag, push)\n"
    f"  local message = string.gsub([==[{_MESSAGE}]==], '[@~#$]',\n"
    """    {['@'] = ids[1], ['~'] = tag, ['#'] = queue, ['$'] = table.concat(ids, [==[\\",\\"]==])})\n"""
    "  redis.call(push, queue, message)\n"
    "end\n"
    """local function first_of(message) return string.match(message, '"correlation_id": "([^"]+)"') end\n"""
)
