"""The end of a job in Redis, as one atomic script.

The worker that ran the job ends it, or a gateway when the job's time is over.
"""

from contract import wire
from contract.jobs import JobBase, Outcome

# The first outcome of a job stays: a job that ran twice is answered once. For the script that follows it: `first`
# says whether this outcome was the first; `cost` is what admission had counted ("texts:bytes"), or false if that was
# given back before.
LUA = """
local first = redis.call('SET', KEYS[1], ARGV[1], 'NX', 'EX', ARGV[2])
if first then
  redis.call('HSET', KEYS[2], 'state', ARGV[3])
  redis.call('HDEL', KEYS[2], 'body', 'holder')
  redis.call('EXPIRE', KEYS[2], ARGV[4])
  if redis.call('HEXISTS', KEYS[2], 'webhook') == 1 then redis.call('ZADD', KEYS[10], 0, ARGV[6]) end
  if ARGV[7] ~= '' then
    redis.call('XADD', KEYS[3], '*', 'event', ARGV[3], 'data', ARGV[7])
    redis.call('EXPIRE', KEYS[3], ARGV[2])
  end
end
if redis.call('ZREM', KEYS[7], ARGV[6]) == 0 then
  redis.call('ZREM', KEYS[8], ARGV[6])
  redis.call('ZREM', KEYS[9], ARGV[6])
end
local cost = redis.call('HGET', KEYS[4], ARGV[6])
if cost then
  redis.call('HDEL', KEYS[4], ARGV[6])
  local texts, bytes = string.match(cost, '(%d+):(%d+)')
  redis.call('HINCRBY', KEYS[5], 'texts', -tonumber(texts))
  redis.call('HINCRBY', KEYS[5], 'bytes', -tonumber(bytes))
end
if ARGV[5] ~= '' then
  local outcome = first and ARGV[1] or redis.call('GET', KEYS[1])
  local letter = ARGV[6]
  if #outcome <= tonumber(ARGV[8]) then letter = letter .. '\\n' .. outcome end
  redis.call('RPUSH', KEYS[6], letter)
  redis.call('EXPIRE', KEYS[6], ARGV[9])
end
"""


def keys(job: JobBase) -> list[str]:
    """KEYS of `LUA`."""
    return [
        wire.result(job.id),
        wire.job(job.id),
        wire.events(job.id),
        wire.OPEN,
        wire.LOAD,
        wire.mailbox(job.mailbox or ""),
        wire.LEASES,
        *wire.WAITING.values(),
        wire.WEBHOOKS,
    ]


def arguments(job: JobBase, outcome: Outcome, ttl_s: int) -> list[str | int]:
    """ARGV of `LUA`. ttl_s: for how long the outcome is kept."""
    body = outcome.model_dump_json(exclude_none=True)
    return [
        body,
        ttl_s,
        outcome.state,
        wire.RECORD_TTL_S,
        job.mailbox or "",
        job.id,
        body if job.events else "",
        wire.MAILBOX_MAX_BYTES,
        wire.MAILBOX_TTL_S,
    ]
