"""What one key may ask for: requests a second (a token bucket) and bytes a day, counted in Redis for all gateways."""

from datetime import UTC, datetime
from typing import Any, cast

from api.keys import Key
from api.problems import Problem
from api.redis.redis_client import redis_client
from api.settings import ApiSettings
from contract import lua, wire

_TWO_DAYS_S = 2 * 24 * 3600
# KEYS: the bucket, the day's count. ARGV: requests a second, bytes a day (0: no limit), the bytes of this request.
# Answers what refuses it (1: rate, 2: quota, 0: nothing), the bytes used before, and the seconds to wait.
_CHARGE = f"""{lua.NOW}
local rate, quota, size = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local used = quota > 0 and tonumber(redis.call('GET', KEYS[2]) or '0') or 0
if rate > 0 then
  local depth = math.max(rate, 1)
  local kept = redis.call('HMGET', KEYS[1], 'tokens', 'at')
  -- A time in the future is older than a backward jump of the clock.
  if kept[2] and tonumber(kept[2]) > now then redis.call('HSET', KEYS[1], 'at', string.format('%.6f', now)) end
  local tokens = math.min(depth, (kept[1] or depth) + math.max(0, now - (kept[2] or now)) * rate)
  if tokens < 1 then return {{1, used, math.ceil((1 - tokens) / rate)}} end
  redis.call('HSET', KEYS[1], 'tokens', tostring(tokens - 1), 'at', string.format('%.6f', now))
  redis.call('EXPIRE', KEYS[1], math.ceil(depth / rate) + 1)
end
if quota > 0 and used + size > quota then return {{2, used, 86400 - time[1] % 86400}} end
if quota > 0 and size > 0 then
  redis.call('INCRBY', KEYS[2], size)
  redis.call('EXPIRE', KEYS[2], {_TWO_DAYS_S})
end
return {{0, used, 0}}
"""

_WITHOUT_JOB = ("/batches", "/v1/batches", "/v1/files")


class Limits:
    """One script a request: before it is read or, where bytes count and it makes a job, once its size is known."""

    def __init__(self, settings: ApiSettings) -> None:
        self._rate = settings.api_key_requests_per_s or 0
        self._quota = settings.api_key_bytes_per_day or 0
        self._redis = redis_client(settings)
        self._charge = self._redis.register_script(_CHARGE)

    def before_reading(self, method: str, path: str) -> bool:
        """Whether a request is charged before it is read, and not with its bytes, as what makes a job is.

        A file is none, and its lines are charged when they are asked.
        """
        return not self._quota or method != "POST" or path.startswith(_WITHOUT_JOB)

    async def charge(self, key: Key, size: int, counted: bool = False) -> str:
        """Count a request. size: bytes to read or generate. Raises Problem over a limit, redis.RedisError.

        counted: it is one already, as a line of a batch is, and so are all prompts of a request but the first.

        Returns where the bytes are counted, for `refund`.
        """
        # Days are those of UTC, as in the script.
        names = wire.rate(key.name), wire.quota(key.name, f"{datetime.now(UTC):%Y-%m-%d}")
        refused, used, wait_s = await cast(Any, self._charge(names, (0 if counted else self._rate, self._quota, size)))
        if not refused:
            return names[1]
        retry = {"Retry-After": str(max(1, wait_s))}
        if refused == 1:
            setting = "NEURON_API_KEY_REQUESTS_PER_S"
            detail = f"the key {key.name!r} may ask {self._rate:g} times a second ({setting})"
            raise Problem("rate-limited", detail, retry, limit=self._rate, setting=setting)
        setting = "NEURON_API_KEY_BYTES_PER_DAY"
        members: dict[str, Any] = {"limit": self._quota, "used": used, "actual": size, "setting": setting}
        if size > self._quota:
            detail = f"{size:,} bytes can never fit the {self._quota:,} that a key has for a day ({setting})"
            raise Problem("too-large", detail, **members)
        detail = (
            f"the key {key.name!r} has used {used:,} bytes today and {size:,} more would pass the limit of "
            f"{self._quota:,} a day ({setting}), which starts again at midnight UTC"
        )
        raise Problem("quota-used", detail, retry, **members)

    async def refund(self, name: str, size: int) -> None:
        """Give back the bytes of a request that made no job. name: what `charge` returned."""
        await self._redis.decrby(name, size)

    async def close(self) -> None:
        await self._redis.aclose()
