"""Dead letters: jobs that were given up because every worker that ran them died, in the list `neuron:dead`.

A worker keeps them (`KEEP`); `neuron jobs` reads them, and queues them again (`retry`) or removes them.
"""

import json
from dataclasses import dataclass
from typing import cast

from contract import lua, wire
from contract.jobs import Priority

# keep_dead(list, at most, id, at, cost, record): the last that was given up stands first.
# cost: "texts:bytes", as in `neuron:open`. record: names and values in turn, as HGETALL answers them.
KEEP = """
local function keep_dead(list, at_most, id, at, cost, record)
  redis.call('LPUSH', list, cjson.encode({id = id, at = at, cost = cost, record = record}))
  redis.call('LTRIM', list, 0, at_most - 1)
end
"""

# KEYS: the list, then the record, result, stream and cancellation of the job, then open, load, the waiting jobs and the
# queue. ARGV: the entry, id, texts, bytes, then the record. Answers 0 if the entry is not there any more.
_RETRY = (
    lua.NOW
    + lua.MESSAGES
    + lua.COUNT_IN
    + """
if redis.call('LREM', KEYS[1], 1, ARGV[1]) == 0 then return 0 end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5])
redis.call('HSET', KEYS[2], 'created', now, unpack(ARGV, 5))
count_in(KEYS[6], KEYS[7], KEYS[8], ARGV[2], ARGV[3], ARGV[4], now)
send(KEYS[9], {ARGV[2]}, ARGV[2] .. '.' .. now, 'LPUSH')
return 1
"""
)
_KEPT = ("kind", "priority", "timeout_s", "encoding", "skipped", "abandon", "bytes", "body")


@dataclass(frozen=True)
class DeadLetter:
    """An entry of the list. raw: its bytes, by which it is found. at: Unix time in seconds. cost: "texts:bytes"."""

    raw: bytes
    id: str
    at: float
    cost: str
    record: dict[str, str]


def read(raw: bytes) -> DeadLetter:
    entry = json.loads(raw)
    pairs = entry["record"]
    return DeadLetter(raw, entry["id"], entry["at"], entry["cost"], dict(zip(pairs[::2], pairs[1::2], strict=True)))


def retry(letter: DeadLetter) -> tuple[str, list[str], list[str | bytes]]:
    """(script, KEYS, ARGV) that queues the job again under its id, with all its time, and removes the entry.

    The script answers 1, or 0 where the entry is not in the list any more.
    """
    priority = cast(Priority, letter.record["priority"])
    keys = [
        wire.DEAD,
        wire.job(letter.id),
        wire.result(letter.id),
        wire.events(letter.id),
        wire.cancel(letter.id),
        wire.OPEN,
        wire.LOAD,
        wire.WAITING[priority],
        wire.QUEUES[priority],
    ]
    record = {name: letter.record[name] for name in _KEPT if name in letter.record} | {"state": "queued"}
    fields = [part for item in record.items() for part in item]
    return _RETRY, keys, [letter.raw, letter.id, *letter.cost.split(":"), *fields]
