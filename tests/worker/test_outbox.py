"""What is sent is written in its order; what Redis refuses, or cannot be told, reaches who waits for the receipt."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import redis

from tests.conftest import free_port
from worker.outbox import Outbox, Receipt


def test_many_threads_write_and_each_keeps_its_order(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    outbox = Outbox(client)

    def write(name: str) -> None:
        receipt = Receipt()
        for number in range(500):
            outbox.send(receipt, ("RPUSH", name, number), ("INCR", "written"))
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
        outbox.send(Receipt(), ("INCR", "written"))
    outbox.close()
    assert client.get("written") == b"1000"


def test_what_redis_refuses_fails_its_own_receipt_alone(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.set("text", "no list")
    outbox = Outbox(client)
    good, bad = Receipt(), Receipt()
    for _ in range(50):
        outbox.send(bad, ("INCR", "before"), ("RPUSH", "text", 1))
        outbox.send(good, ("RPUSH", "list", 1), ("EXPIRE", "list", 60))
    good.wait()
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        bad.wait()
    assert client.llen("list") == 50
    outbox.close()


def test_redis_away_fails_the_receipt_and_the_outbox_goes_on() -> None:
    outbox = Outbox(redis.Redis(port=free_port(), socket_connect_timeout=1))
    for _ in range(2):
        receipt = Receipt()
        outbox.send(receipt, ("INCR", "written"))
        with pytest.raises(redis.ConnectionError):
            receipt.wait()
    outbox.close()
