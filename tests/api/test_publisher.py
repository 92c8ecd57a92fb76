"""What the gateway puts on the queue is what Celery itself would have put there."""

import asyncio
import json
from typing import Any

import pytest
import redis
import redis.asyncio
from celery import Celery

from api.redis.publisher import Publisher
from api.redis.submissions import QueueFull, Submission
from api.settings import ApiSettings
from api.stopping import stop
from contract import endings, wire
from contract.jobs import JOB, ClassifyJob, Outcome, Priority


def job(number: int, texts: list[str], priority: Priority = "interactive") -> ClassifyJob:
    return ClassifyJob(id=f"{number:020d}", timeout_s=1.0, texts=texts, head="sentiment", priority=priority)


def publish(url: str, jobs: list[ClassifyJob], **settings: Any) -> None:
    async def go() -> None:
        async with redis.asyncio.Redis.from_url(url) as client:
            publisher = Publisher(ApiSettings(**settings), client)
            arriving = [asyncio.create_task(publisher.publish(Submission(job, len(job.texts), 1))) for job in jobs]
            await asyncio.sleep(0)
            running = asyncio.create_task(publisher.run())
            try:
                await asyncio.gather(*arriving)
            finally:
                await stop(running)

    asyncio.run(go())


def messages(url: str, priority: Priority = "interactive") -> list[dict[str, Any]]:
    """What is on the queue, first in first."""
    with redis.Redis.from_url(url) as client:
        return [json.loads(raw) for raw in reversed(client.lrange(wire.QUEUES[priority], 0, -1))]  # type: ignore[union-attr]


def body(message: dict[str, Any]) -> Any:
    return json.loads(message["body"])


@pytest.mark.parametrize("priority", ["interactive", "bulk"])
def test_a_message_is_as_celery_writes_it(redis_url: str, priority: Priority) -> None:
    jobs = [job(1, ["one", "\u00e9\n\"'\\"], priority), job(2, ["three"], priority)]
    with Celery("test", broker=redis_url) as app:
        app.conf.update(wire.celery_settings({}))
        app.send_task(wire.TASK, args=[[one.id for one in jobs]], queue=wire.QUEUES[priority])
    publish(redis_url, jobs)
    expected, message = messages(redis_url, priority)

    arguments, keywords, options = body(expected)
    assert body(message)[:2] == [arguments, keywords]
    assert body(message)[2] == {name: value for name, value in options.items() if value is not None}
    assert message.keys() == expected.keys()
    assert message["content-type"] == expected["content-type"]
    assert message["content-encoding"] == expected["content-encoding"]
    for part, ids in (("headers", {"id", "root_id"}), ("properties", {"correlation_id", "delivery_tag"})):
        assert message[part].keys() <= expected[part].keys()
        assert {message[part][name] for name in ids} == {jobs[0].id}
    # Left out: what has no value or Celery's own default, the sender, and a copy of the texts.
    left_out = {"origin", "argsrepr", "kwargsrepr", "retries", "timelimit", "stamps", "replaced_task_nesting"}
    for name, value in expected["headers"].items():
        assert value is None or name in message["headers"].keys() | left_out
    assert {**expected["properties"], **message["properties"]} == expected["properties"] | {
        "correlation_id": jobs[0].id,
        "delivery_tag": jobs[0].id,
    }


def test_jobs_share_messages_up_to_a_size_and_keep_their_order(redis_url: str) -> None:
    sizes = [1] * 40 + [60, 4, 1, 100, 1]
    jobs = [job(number, ["text"] * size) for number, size in enumerate(sizes)]
    publish(redis_url, jobs)
    sent = [body(message)[0][0] for message in messages(redis_url)]
    assert [job_id for message in sent for job_id in message] == [one.id for one in jobs]
    assert [[sizes[int(job_id)] for job_id in message] for message in sent] == [
        [1] * 32,
        [1] * 8,
        [60, 4],
        [1],
        [100],
        [1],
    ]


def test_a_job_lies_in_its_record_and_waits_in_the_order_of_its_queue(redis_url: str) -> None:
    jobs = [job(number, ["text", "\u00e9\n\"'\\"]) for number in range(3)]
    publish(redis_url, jobs[:1])
    publish(redis_url, jobs[1:])
    publish(redis_url, jobs)  # as after an answer that was lost: nothing is counted or queued twice
    with redis.Redis.from_url(redis_url) as client:
        assert [JOB.validate_json(client.hget(wire.job(one.id), "body")) for one in jobs] == jobs  # type: ignore[arg-type]
        waiting = client.zrange(wire.WAITING["interactive"], 0, -1, withscores=True)
        assert [member.decode() for member, _ in waiting] == [one.id for one in jobs]  # type: ignore[union-attr]
        assert [score for _, score in waiting] == [  # type: ignore[union-attr]
            float(client.hget(wire.job(one.id), "created"))  # type: ignore[arg-type]
            for one in jobs
        ]
        assert client.hget(wire.LOAD, "texts") == b"6"
    assert len(messages(redis_url)) == 2


def test_a_job_whose_admission_was_not_heard_is_admitted_once(redis_url: str) -> None:
    """As when the connection breaks between the script's end and its answer, and the command is sent again."""
    filling = job(1, ["text"] * 3)
    publish(redis_url, [filling], api_max_queued_texts=3)
    publish(redis_url, [filling], api_max_queued_texts=3)
    with pytest.raises(QueueFull):
        publish(redis_url, [job(2, ["text"])], api_max_queued_texts=3)
    with redis.Redis.from_url(redis_url) as client:
        end = endings.LUA, len(endings.keys(filling)), *endings.keys(filling)
        client.eval(*end, *endings.arguments(filling, Outcome(state="cancelled"), 60))
        publish(redis_url, [filling], api_max_queued_texts=3)
        assert client.hget(wire.job(filling.id), "state") == b"cancelled"
        assert not client.exists(wire.OPEN)
    assert len(messages(redis_url)) == 1


def test_bulk_jobs_go_to_a_queue_of_their_own(redis_url: str) -> None:
    priorities: list[Priority] = ["interactive", "bulk", "interactive", "bulk", "bulk"]
    publish(redis_url, [job(number, ["text"], priority) for number, priority in enumerate(priorities)])
    for priority in wire.QUEUES:
        (message,) = messages(redis_url, priority)
        sent = [int(job_id) for job_id in body(message)[0][0]]
        assert sent == [number for number, its in enumerate(priorities) if its == priority]
