"""A dead letter is read as it was kept, and its job queued again once, with all its time."""

import json

import redis

from contract import dead_letters, lua, wire

ID = "f" * 20
RECORD = {
    "kind": "classify",
    "priority": "bulk",
    "timeout_s": "30.0",
    "encoding": "float",
    "skipped": "{}",
    "abandon": "0",
    "bytes": "7",
    "body": '{"texts": ["A text."]}',
    "state": "running",
    "created": "1.5",
    "attempts": "3",
    "holder": "the last",
}
CALL = "keep_dead(KEYS[1], ARGV[1], ARGV[2], now, ARGV[3], redis.call('HGETALL', KEYS[2]))"
KEEP = dead_letters.KEEP + lua.NOW + CALL


def keep(client: "redis.Redis", job_id: str, at_most: int = 10) -> None:
    client.hset(wire.job(job_id), mapping=RECORD)
    client.eval(KEEP, 2, wire.DEAD, wire.job(job_id), at_most, job_id, "1:7")


def letters(client: "redis.Redis") -> list[dead_letters.DeadLetter]:
    return [dead_letters.read(raw) for raw in client.lrange(wire.DEAD, 0, -1)]  # type: ignore[union-attr]


def test_the_last_that_was_given_up_stands_first_and_the_oldest_go(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        for job_id in ("one", "two", "three"):
            keep(client, job_id, at_most=2)
        found = letters(client)
    assert [letter.id for letter in found] == ["three", "two"]
    assert (found[0].cost, found[0].record) == ("1:7", RECORD)


def test_a_job_is_queued_again_once_and_counted(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        keep(client, ID)
        client.set(wire.result(ID), "an outcome")
        (letter,) = letters(client)
        script, keys, arguments = dead_letters.retry(letter)
        answers = [client.eval(script, len(keys), *keys, *arguments) for _ in range(2)]
        assert answers == [1, 0]
        assert not client.exists(wire.DEAD, wire.result(ID))
        record = {name.decode(): value.decode() for name, value in client.hgetall(wire.job(ID)).items()}  # type: ignore[union-attr]
        created = float(record.pop("created"))
        kept = ("kind", "priority", "timeout_s", "encoding", "skipped", "abandon", "bytes", "body")
        assert record == {name: RECORD[name] for name in kept} | {"state": "queued"}
        assert client.hgetall(wire.OPEN) == {ID.encode(): b"1:7"}
        assert client.hgetall(wire.LOAD) == {b"texts": b"1", b"bytes": b"7"}
        assert client.zrange(wire.WAITING["bulk"], 0, -1, withscores=True) == [(ID.encode(), created)]
        (message,) = client.lrange(wire.QUEUES["bulk"], 0, -1)  # type: ignore[misc]
    assert json.loads(json.loads(message)["body"])[0] == [[ID]]
