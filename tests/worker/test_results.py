"""Leases: one delivery at a time has a job; what lost its worker is found once; clocks may jump."""

import asyncio
import json
from collections.abc import Iterator

import pytest
import redis
import redis.asyncio

from api.redis.publisher import Publisher
from api.redis.submissions import Submission
from api.settings import ApiSettings
from contract import wire
from contract.jobs import ClassifyJob, ErrorCode, Outcome
from worker.outbox import Receipt
from worker.results import Results, StreamContent

DONE = Outcome(state="done", result={"answer": 1})


def job(number: int) -> ClassifyJob:
    mailbox = "of-a-test"
    return ClassifyJob(id=f"{number:020d}", timeout_s=1.0, texts=["x"], head="sentiment", mailbox=mailbox, events=True)


JOBS = [job(number) for number in range(4)]
IDS = [one.id for one in JOBS]


@pytest.fixture
def client(redis_url: str) -> Iterator["redis.Redis"]:
    """A Redis on which four jobs were admitted."""

    async def admit() -> None:
        asynchronous = redis.asyncio.Redis.from_url(redis_url)
        publisher = Publisher(ApiSettings(), asynchronous)
        running = asyncio.create_task(publisher.run())
        for one in JOBS:  # one after the other, each in a message of its own
            await publisher.publish(Submission(one, 1, 10))
        running.cancel()
        await asynchronous.aclose()

    asyncio.run(admit())
    with redis.Redis.from_url(redis_url) as connected:
        yield connected


@pytest.fixture
def results(client: "redis.Redis") -> Iterator[Results]:
    opened = Results(client, result_ttl_s=60, max_deliveries=3)
    yield opened
    opened.close()


def begin(results: Results, job_ids: list[str], delivery: str, alone: bool = False) -> tuple[list[str], list[str]]:
    begun, suspects = results.begin(job_ids, delivery, alone)
    return [one.id for one in begun], suspects


def finish(results: Results, number: int, delivery: str) -> None:
    receipt = Receipt()
    results.finish(JOBS[number], delivery, lambda: DONE, receipt)
    receipt.wait()


def lapse(client: "redis.Redis") -> None:
    for member in client.zrange(wire.LEASES, 0, -1):  # type: ignore[union-attr]
        client.zadd(wire.LEASES, {member: 0})


def queued(client: "redis.Redis", pop: bool = False) -> list[str]:
    """First jobs of the messages, first in line first."""
    messages = [json.loads(raw) for raw in reversed(client.lrange("neuron", 0, -1))]  # type: ignore[union-attr]
    if pop:
        client.delete("neuron")
    return [message["headers"]["id"] for message in messages]


def age(client: "redis.Redis", seconds: float) -> None:
    """As if all that is known of the jobs had happened earlier."""
    for job_id in IDS:
        for name in ("created", "missed"):
            if client.hexists(wire.job(job_id), name):
                client.hincrbyfloat(wire.job(job_id), name, -seconds)
        if client.zscore(wire.WAITING["interactive"], job_id) is not None:
            client.zadd(wire.WAITING["interactive"], {job_id: float(client.hget(wire.job(job_id), "created"))})  # type: ignore[arg-type]


def lose(client: "redis.Redis", results: Results) -> None:
    """Every message, and for so long that the next look finds it, unless the jobs are begun before."""
    queued(client, pop=True)
    assert results.reap("a").lost == 0
    age(client, 2 * wire.LOST_S)


def test_one_delivery_has_a_job_and_may_ask_again(client: "redis.Redis", results: Results) -> None:
    assert begin(results, IDS, "first") == (IDS, [])
    assert begin(results, IDS, "second") == ([], [])
    assert begin(results, IDS, "first") == (IDS, [])  # its answer was lost
    assert client.hget(wire.job(IDS[0]), "attempts") == b"1"
    assert client.zcard(wire.WAITING["interactive"]) == 0


def test_nothing_is_left_of_what_has_ended_and_it_does_not_run_again(client: "redis.Redis", results: Results) -> None:
    begin(results, IDS, "first")
    for number in range(4):
        finish(results, number, "first")
    assert not client.exists(wire.LEASES, wire.OPEN, *wire.WAITING.values())
    assert not client.hexists(wire.job(IDS[0]), "body")
    assert begin(results, IDS, "second") == ([], [])


def test_characters_that_are_sent_again_stand_once_in_the_stream(results: Results) -> None:
    """As they are when Redis goes away between taking them and saying so."""
    begin(results, IDS, "first")
    receipt = Receipt()
    for number, text in [(1, "one"), (2, "two"), (1, "one"), (2, "two"), (3, "three")]:
        results.token(JOBS[0], "first", 0, text, number, "tiny step 1", receipt)  # type: ignore[arg-type]
    receipt.wait()
    assert results.stream_content(IDS[0]) == StreamContent(3, {0: len("onetwothree")}, "tiny step 1")


def test_a_stream_has_no_holes(client: "redis.Redis", results: Results) -> None:
    begin(results, IDS, "first")
    receipt = Receipt()
    results.token(JOBS[0], "first", 0, "third", 3, "tiny step 1", receipt)  # type: ignore[arg-type]
    with pytest.raises(redis.ResponseError, match="GAP 2 events"):
        receipt.wait()
    assert client.xlen(wire.events(IDS[0])) == 0


def test_who_lost_a_job_is_not_heard(client: "redis.Redis", results: Results) -> None:
    begin(results, IDS, "first")
    lapse(client)
    assert results.reap("reaper").lapsed == 4
    assert begin(results, IDS[:2], "second") == (IDS[:2], [])
    assert results.renew(dict.fromkeys(IDS, ("first", 0))) == IDS[:2]
    finish(results, 0, "first")
    receipt = Receipt()
    results.token(JOBS[0], "first", 0, "old", 1, "tiny step 1", receipt)  # type: ignore[arg-type]
    results.token(JOBS[0], "second", 0, "new", 1, "tiny step 2", receipt)  # type: ignore[arg-type]
    receipt.wait()
    assert not client.exists(wire.result(IDS[0]))
    assert results.stream_content(IDS[0]) == StreamContent(1, {0: 3}, "tiny step 2")
    finish(results, 0, "second")
    assert client.xlen(wire.events(IDS[0])) == 2
    # The other two had lapsed, but nobody else had begun them: they are the first delivery's again.
    assert begin(results, IDS[2:], "third") == ([], [])
    assert client.zcard(wire.WAITING["interactive"]) == 0


def test_lapsed_jobs_are_queued_once_first_in_line_and_in_their_order(client: "redis.Redis", results: Results) -> None:
    queued(client, pop=True)
    begin(results, IDS[:3], "first")
    client.lpush("neuron", json.dumps({"headers": {"id": IDS[3]}, "properties": {"correlation_id": IDS[3]}}))
    lapse(client)
    first, second = results.reap("a"), results.reap("b")
    assert (first.lapsed, first.lost, second.lapsed, second.lost) == (3, 0, 0, 0)
    assert queued(client) == IDS


def test_jobs_that_wait_on_a_long_queue_are_not_taken_for_lost(client: "redis.Redis", results: Results) -> None:
    age(client, 1000)
    assert results.reap("a").lost == 0
    assert queued(client) == IDS


def test_jobs_that_left_the_queue_and_were_not_begun_are_found_after_a_while_and_once(
    client: "redis.Redis", results: Results
) -> None:
    age(client, 1000)  # which they waited on the queue
    client.rpop("neuron", 2)
    assert [results.reap("a").lost, results.reap("b").lost] == [0, 0]  # they may be begun any moment
    age(client, 2 * wire.LOST_S)
    assert results.reap("a").lost == 2
    assert queued(client) == IDS
    assert [results.reap("a").lost, results.reap("b").lost] == [0, 0]
    age(client, 2 * wire.LOST_S)
    assert results.reap("a").lost == 0
    lose(client, results)
    assert results.reap("a").lost == 4


def test_what_is_begun_after_it_was_missed_is_missed_anew_by_its_next_loss(
    client: "redis.Redis", results: Results
) -> None:
    lose(client, results)
    begin(results, IDS, "first")
    lapse(client)
    found = results.reap("a")
    assert (found.lapsed, found.lost) == (4, 0)
    assert queued(client) == IDS
    lose(client, results)
    begin(results, IDS, "second")
    receipt = Receipt()
    for job_id in IDS:
        results.give_back(job_id, "second", receipt)
    receipt.wait()
    lose(client, results)
    assert results.reap("a").lost == 4


def test_the_last_delivery_runs_alone_and_then_the_job_is_a_dead_letter(
    client: "redis.Redis", results: Results
) -> None:
    client.hset(wire.job(IDS[0]), "webhook", "a secret")
    for delivery in ("first", "second"):
        assert begin(results, IDS[:1], delivery) == (IDS[:1], [])
        lapse(client)
        results.reap("reaper")
    assert begin(results, IDS, "third") == (IDS[1:], IDS[:1])
    assert begin(results, IDS[:1], "fourth", alone=True) == (IDS[:1], [])
    client.zadd(wire.LEASES, {IDS[0]: 0})
    assert begin(results, IDS[:1], "fifth", alone=True) == ([], [])
    assert results.reap("reaper").dead == IDS[:1]
    outcome = Outcome.model_validate_json(client.get(wire.result(IDS[0])))  # type: ignore[arg-type]
    assert outcome.error is not None
    assert outcome.error.code == ErrorCode.WORKERS_DIED
    (entry,) = client.lrange(wire.DEAD, 0, -1)  # type: ignore[misc]
    assert json.loads(entry)["cost"] == "1:10"
    assert b"secret" not in entry
    # Its failure will be posted.
    assert client.zscore(wire.WEBHOOKS, IDS[0]) == 0
    assert client.hget(wire.job(IDS[0]), "webhook") == b"a secret"
    assert client.hget(wire.LOAD, "texts") == b"3"
    assert wire.letter(client.lpop(wire.mailbox("of-a-test")))[0] == IDS[0]  # type: ignore[arg-type]
    assert results.reap("reaper").dead == []


def test_what_is_given_back_was_no_delivery_and_comes_first(client: "redis.Redis", results: Results) -> None:
    queued(client, pop=True)
    begin(results, IDS, "first")
    for number in (0, 3):
        receipt = Receipt()
        results.give_back(IDS[number], "first", receipt)
        receipt.wait()
    finish(results, 3, "first")
    assert queued(client) == [IDS[3], IDS[0]]
    assert client.hmget(wire.job(IDS[3]), ["state", "attempts"]) == [b"queued", b"0"]
    assert results.renew({IDS[0]: ("first", 7)}) == [IDS[0]]
    (again,), _ = results.begin([IDS[3]], "second", False)
    assert again.again


def redis_time(client: "redis.Redis") -> float:
    seconds, microseconds = client.time()  # type: ignore[misc]
    return float(seconds + microseconds / 1e6)


def set_back(client: "redis.Redis", seconds: float) -> None:
    """As if Redis' clock had been set back: all its earlier times lie so much later."""
    for key in (wire.LEASES, *wire.WAITING.values()):
        for member, score in client.zrange(key, 0, -1, withscores=True):  # type: ignore[union-attr]
            client.zadd(key, {member: score + seconds})
    age(client, -seconds)


def test_a_worker_hears_how_old_a_job_is_and_never_that_it_is_yet_to_come(
    client: "redis.Redis", results: Results
) -> None:
    age(client, 1000)
    client.hset(wire.job(IDS[3]), "created", redis_time(client) + 3600)
    begun, _ = results.begin(IDS, "first", False)
    assert all(1000 <= one.age_s < 1100 for one in begun[:3])
    assert begun[3].age_s == 0


def test_a_clock_set_back_does_not_keep_a_dead_worker_s_jobs(client: "redis.Redis", results: Results) -> None:
    begin(results, IDS, "first")
    set_back(client, 3600)
    assert results.reap("reaper").lapsed == 0  # a live worker has time to renew them
    left = [score - redis_time(client) for _, score in client.zrange(wire.LEASES, 0, -1, withscores=True)]  # type: ignore[union-attr]
    assert all(0 < seconds <= wire.LEASE_S for seconds in left)
    assert len(left) == 4
    assert results.renew({IDS[0]: ("first", 7)}) == []
    for job_id in IDS[1:]:
        client.zincrby(wire.LEASES, -wire.LEASE_S, job_id)
    assert results.reap("reaper").lapsed == 3
    queued(client, pop=True)
    # Queued again with the times from before: still found if their messages are lost.
    assert results.reap("reaper").lost == 0
    age(client, 2 * wire.LOST_S)
    assert results.reap("reaper").lost == 3
    assert sorted(queued(client)) == IDS[1:]


def test_a_lease_of_its_usual_length_is_left_alone(client: "redis.Redis", results: Results) -> None:
    begin(results, IDS, "first")
    before = client.zrange(wire.LEASES, 0, -1, withscores=True)
    results.reap("reaper")
    assert client.zrange(wire.LEASES, 0, -1, withscores=True) == before


def test_a_clock_set_back_does_not_hide_lost_jobs(client: "redis.Redis", results: Results) -> None:
    client.rpop("neuron", 2)
    client.hset(wire.job(IDS[1]), "missed", redis_time(client) + 3600)  # before the clock was set back
    set_back(client, 3600)
    assert results.reap("reaper").lost == 0
    created = [float(client.hget(wire.job(job_id), "created")) for job_id in IDS]  # type: ignore[arg-type]
    assert all(at <= redis_time(client) for at in created)  # so that their time limits do not wait for an hour
    queued(client, pop=True)
    assert results.reap("reaper").lost == 1  # the one that was missed in what is now the future
    queued(client, pop=True)
    age(client, 2 * wire.LOST_S)
    assert results.reap("reaper").lost == 3


def test_a_clock_set_forward_runs_jobs_again_and_tells_them_once(client: "redis.Redis", results: Results) -> None:
    begin(results, IDS, "first")
    set_back(client, -3600)
    assert results.reap("reaper").lapsed == 4
    assert begin(results, IDS, "second") == (IDS, [])
    finish(results, 0, "first")
    assert not client.exists(wire.result(IDS[0]))
    finish(results, 0, "second")
    finish(results, 0, "first")
    assert client.xlen(wire.events(IDS[0])) == 1
    assert client.llen(wire.mailbox("of-a-test")) == 2  # the second letter tells the same outcome
