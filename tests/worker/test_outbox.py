"""What is sent is written in its order; what Redis refuses, or cannot be given, is raised to callers that wait."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.conftest import free_port, wait_until
from worker.outbox import Command, Outbox, Receipt


def commands(*given: Command) -> tuple[Command, ...]:
    return given


def test_many_threads_write_and_each_keeps_its_order(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    outbox = Outbox(client)

    def write(name: str) -> None:
        receipt = Receipt()
        for number in range(500):
            outbox.send(receipt, partial(commands, ("RPUSH", name, number), ("INCR", "written")))
        receipt.wait()
        assert client.lrange(name, 0, -1) == [str(number).encode() for number in range(500)]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(write, [f"list-{number}" for number in range(8)]))
    assert client.get("written") == b"4000"
    outbox.close()


def test_closing_writes_what_was_sent(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    outbox = Outbox(client)
    for _ in range(1000):
        outbox.send(Receipt(), partial(commands, ("INCR", "written")))
    outbox.close()
    assert client.get("written") == b"1000"


def test_what_redis_refuses_fails_its_own_receipt_alone(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.set("text", "no list")
    outbox = Outbox(client)
    good, bad = Receipt(), Receipt()
    for _ in range(50):
        outbox.send(bad, partial(commands, ("INCR", "before"), ("RPUSH", "text", 1)))
        outbox.send(good, partial(commands, ("RPUSH", "list", 1), ("EXPIRE", "list", 60)))
    good.wait()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        bad.wait()
    assert client.llen("list") == 50
    outbox.close()


def test_what_cannot_be_worked_out_fails_its_own_receipt_alone(redis_url: str) -> None:
    def broken() -> tuple[Command, ...]:
        raise ValueError("no commands")

    client = redis.Redis.from_url(redis_url)
    outbox = Outbox(client)
    good, bad = Receipt(), Receipt()
    for _ in range(50):
        outbox.send(bad, broken)
        outbox.send(good, partial(commands, ("INCR", "written")))
    good.wait()
    with pytest.raises(ValueError, match="no commands"):
        bad.wait()
    assert client.get("written") == b"50"
    outbox.close()


def test_a_receipt_waits_for_what_is_expected_beside_what_is_sent(redis_url: str) -> None:
    outbox = Outbox(redis.Redis.from_url(redis_url))
    receipt = Receipt()
    receipt.expect()
    outbox.send(receipt, partial(commands, ("INCR", "written")))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(receipt.wait)
        outbox.close()
        assert not waiting.done()
        receipt.note()
        assert waiting.result(60) is None


def test_what_redis_cannot_write_for_a_while_is_written_later_and_in_order(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    outbox, receipt = Outbox(client), Receipt()
    client.config_set("maxmemory", 1)
    try:
        for number in range(50):
            outbox.send(receipt, partial(commands, ("RPUSH", "list", number)))
        wait_until(lambda: refused(client) > 100, what="a second attempt")
        assert client.llen("list") == 0
    finally:
        client.config_set("maxmemory", 0)
    receipt.wait()
    assert client.lrange("list", 0, -1) == [str(number).encode() for number in range(50)]
    outbox.close()


def refused(client: "redis.Redis") -> int:
    """Commands that Redis has refused for want of memory."""
    return int(client.info("errorstats").get("errorstat_OOM", {}).get("count", 0))  # type: ignore[union-attr]


def test_redis_away_fails_the_receipt_and_the_outbox_goes_on() -> None:
    outbox = Outbox(redis.Redis(port=free_port(), retry=Retry(NoBackoff(), 0)))
    for _ in range(2):
        receipt = Receipt()
        outbox.send(receipt, partial(commands, ("INCR", "written")))
        with pytest.raises(redis.ConnectionError):
            receipt.wait()
    outbox.close()
