"""Webhooks, posted to a real receiver, which checks them by the library of Standard Webhooks."""

import asyncio
import base64
import http.server
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import redis
import redis.asyncio
from standardwebhooks.webhooks import Webhook

from api import webhooks
from api.redis.records import Records
from api.redis.webhook_queue import Post, WebhookQueue
from api.settings import ApiSettings
from api.stopping import stop
from api.webhooks import Poster
from contract import wire
from tests.conftest import Stack, wait_until
from tests.support.gateway import gateway, metric

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()
ASYNC = {"Prefer": "respond-async"}


@dataclass
class Receiver:
    """answers: statuses of the next posts; then 204. posts: (headers, body) of those that came."""

    url: str = ""
    answers: list[int] = field(default_factory=list)
    posts: list[tuple[dict[str, str], bytes]] = field(default_factory=list)

    def verified(self, number: int = -1) -> Any:
        """The message of a post, whose signature and time hold."""
        headers, body = self.posts[number]
        return Webhook(SECRET).verify(body, headers)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    received = Receiver()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            received.posts.append(({name.lower(): value for name, value in self.headers.items()}, body))
            self.send_response(received.answers.pop(0) if received.answers else 204)
            self.send_header("Location", f"{received.url}/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    received.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield received
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def posting(stack: Stack, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[httpx.Client]:
    """A client of a gateway that may post to the receiver, and soon tries again."""
    monkeypatch.setattr(webhooks, "_PAUSES_S", (0.1, 0.2))
    monkeypatch.setattr(webhooks, "_LOOK_S", 0.05)
    hosts = receiver.url.removeprefix("http://")
    with (
        gateway(stack.environment["NEURON_REDIS_URL"], NEURON_API_WEBHOOK_HOSTS=f"example.com,{hosts}") as url,
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        yield client


def ask(client: httpx.Client, receiver: Receiver, path: str, **body: Any) -> str:
    """The id of a job that will be posted."""
    hook = {"url": f"{receiver.url}/hook?run=7", "secret": SECRET}
    accepted = client.post(path, json=body | {"webhook": hook}, headers=ASYNC)
    assert accepted.status_code == 202, accepted.text
    return str(accepted.json()["id"])


def left(stack: Stack, job_id: str) -> list[object]:
    """What Redis holds of a post."""
    with redis.Redis.from_url(stack.environment["NEURON_REDIS_URL"]) as direct:
        return [direct.zscore(wire.WEBHOOKS, job_id), *direct.hmget(wire.job(job_id), "webhook", "posts")]


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/classify", {"text": "Good."}),
        ("/featurize", {"texts": ["Good.", ""], "on_error": "skip", "encoding": "base64"}),
        ("/trace", {"text": "Good."}),
        ("/generate", {"prompt": "Good", "length": 20, "seed": 1}),
    ],
)
def test_the_ended_job_is_posted_as_it_is_shown(
    stack: Stack, posting: httpx.Client, receiver: Receiver, path: str, body: dict[str, Any]
) -> None:
    job_id = ask(posting, receiver, path, **body)
    wait_until(lambda: receiver.posts, what="the post")
    message = receiver.verified()
    assert message["type"] == "job.done"
    assert message["data"] == posting.get(f"/jobs/{job_id}").json()
    assert receiver.posts[0][0]["webhook-id"] == job_id
    wait_until(lambda: left(stack, job_id) == [None, None, None], what="the end of the post")
    assert len(receiver.posts) == 1


def test_a_receiver_that_fails_twice_gets_it_the_third_time(posting: httpx.Client, receiver: Receiver) -> None:
    url = str(posting.base_url).rstrip("/")
    names = [f'neuron_webhook_posts_total{{outcome="{how}"}}' for how in ("delivered", "failed", "given-up")]
    before = [metric(url, name) for name in names]
    receiver.answers = [500, 302]  # which is not followed
    job_id = ask(posting, receiver, "/classify", text="Good.")
    wait_until(lambda: metric(url, names[0]) > before[0], what="the third post")
    assert [headers["webhook-id"] for headers, _ in receiver.posts] == [job_id] * 3
    assert [receiver.verified(number)["data"]["state"] for number in range(3)] == ["done"] * 3
    assert [metric(url, name) - was for name, was in zip(names, before, strict=True)] == [1, 2, 0]


@pytest.mark.parametrize(("answers", "posts"), [([500, 500, 500], 3), ([410], 1)])
def test_a_post_is_given_up(
    stack: Stack, posting: httpx.Client, receiver: Receiver, answers: list[int], posts: int
) -> None:
    receiver.answers = answers
    job_id = ask(posting, receiver, "/classify", text="Good.")
    wait_until(lambda: len(receiver.posts) == posts, what="the last post")
    wait_until(lambda: left(stack, job_id) == [None, None, None], what="the end")
    assert len(receiver.posts) == posts
    assert posting.get(f"/jobs/{job_id}").json()["state"] == "done"


def test_jobs_that_fail_or_are_cancelled_are_posted_too(posting: httpx.Client, receiver: Receiver) -> None:
    ask(posting, receiver, "/classify", text="Good.", head="nobody")
    wait_until(lambda: len(receiver.posts) == 1, what="the post of a job that failed")
    message = receiver.verified()
    assert (message["type"], message["data"]["error"]["status"]) == ("job.failed", 404)
    job_id = ask(posting, receiver, "/generate", length=4000, stop=[], n=8)
    posting.delete(f"/jobs/{job_id}")
    wait_until(lambda: len(receiver.posts) == 2, what="the post of a job that was cancelled")
    assert receiver.verified()["type"] == "job.cancelled"


def test_a_job_whose_time_is_over_is_posted_although_no_worker_has_it(redis_url: str, receiver: Receiver) -> None:
    hosts = receiver.url.removeprefix("http://")
    with (
        gateway(redis_url, NEURON_API_WEBHOOK_HOSTS=hosts) as url,
        httpx.Client(base_url=url) as client,
        redis.Redis.from_url(redis_url) as direct,
    ):
        ask(client, receiver, "/classify", text="Good.", timeout_s=0.2)
        wait_until(lambda: receiver.posts, what="the post")
        message = receiver.verified()
        assert (message["type"], message["data"]["error"]["status"]) == ("job.failed", 504)
        assert not direct.exists(wire.OPEN, *wire.WAITING.values())  # others have its place


def test_a_long_result_is_left_to_be_fetched(
    posting: httpx.Client, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhooks, "_MAX_BYTES", 10_000)
    job_id = ask(posting, receiver, "/featurize", texts=[f"Text {number}." for number in range(100)])
    wait_until(lambda: receiver.posts, what="the post")
    data = receiver.verified()["data"]
    assert data["result"] is None
    result = posting.get(f"/jobs/{job_id}").json()["result"]
    assert data["result_bytes"] == len(json.dumps(result, separators=(",", ":")))
    assert len(result["results"]) == 100


def test_who_takes_posts_and_does_not_answer_is_waited_for(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webhooks, "_OF_HOST", 1)
    monkeypatch.setattr(webhooks, "_NEXT_TURN_S", 0.0)  # what has no place is due again at once
    monkeypatch.setattr(webhooks, "_LOOK_S", 3600.0)

    async def scenario() -> None:
        accepted, released, takes = asyncio.Event(), asyncio.Event(), 0

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.set()
            await released.wait()
            writer.close()

        class Queue(WebhookQueue):
            async def take(self, at_most: int) -> list[Post]:
                nonlocal takes
                takes += 1
                return await super().take(at_most)

        server = await asyncio.start_server(receive, "127.0.0.1", 0)
        host = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        record = {"kind": "classify", "state": "cancelled", "created": 1, "timeout_s": 60, "encoding": "float"}
        record["webhook"] = json.dumps({"url": f"http://{host}/hook", "secret": SECRET})
        settings = ApiSettings(redis_url=redis_url, api_webhook_hosts=host)  # type: ignore[arg-type]
        async with server, redis.asyncio.Redis.from_url(redis_url) as client:
            for number in range(3):
                await client.hset(wire.job(f"{number:032}"), mapping=record)
                await client.set(wire.result(f"{number:032}"), '{"state": "cancelled"}')
                await client.zadd(wire.WEBHOOKS, {f"{number:032}": 0})
            poster = Poster(settings, Queue(client), Records(client))
            running = asyncio.create_task(poster.run())
            try:
                await accepted.wait()
                await asyncio.sleep(0.3)  # while a loop without a pause takes hundreds
                assert takes <= 3
                released.set()
                async with asyncio.timeout(30):
                    while poster._hosts_now:  # noqa: ASYNC110 - it tells nobody
                        await asyncio.sleep(0.02)
            finally:
                await stop(running)

    asyncio.run(scenario())


def test_another_gateway_posts_for_one_that_may_not(stack: Stack, posting: httpx.Client, receiver: Receiver) -> None:
    """A gateway that leaves between the admission and the end takes no post with it."""
    with stack.paused("worker"):
        job_id = ask(posting, receiver, "/classify", text="Good.")
        posting.close()
    hosts = receiver.url.removeprefix("http://")
    with gateway(stack.environment["NEURON_REDIS_URL"], NEURON_API_WEBHOOK_HOSTS=hosts):
        wait_until(lambda: receiver.posts, what="the post")
    assert receiver.verified()["data"]["id"] == job_id


@pytest.mark.parametrize(
    ("hook", "headers", "at", "message"),
    [
        ({"url": "http://other.example/x"}, ASYNC, "webhook.url", "other.example is not among the hosts of NEURON_API"),
        ({"url": "http://127.0.0.1/x"}, ASYNC, "webhook.url", "127.0.0.1 is not among the hosts"),
        ({"url": "http://example.com:81/x"}, ASYNC, "webhook.url", "example.com:81 is not among"),
        ({"url": "http://a@example.com/x"}, ASYNC, "webhook.url", "names and fragments do not belong into it"),
        ({"url": "http:///x"}, ASYNC, "webhook.url", "neither http://HOST"),
        ({"url": "ftp://example.com/x"}, ASYNC, "webhook.url", "http"),
        ({"url": "http://[::1/x"}, ASYNC, "webhook.url", "not a URL"),
        ({"secret": "short"}, ASYNC, "webhook.secret", "not base64 of 24 to 64 bytes: `openssl rand -base64 32` makes"),
        ({"secret": "é" * 40}, ASYNC, "webhook.secret", "not base64"),
        ({}, {}, "webhook", "the answer comes in place: send `Prefer: respond-async` as well"),
    ],
)
def test_a_webhook_that_is_not_allowed_is_refused(
    posting: httpx.Client, hook: dict[str, str], headers: dict[str, str], at: str, message: str
) -> None:
    body = {"text": "Good.", "webhook": {"url": "https://example.com/x", "secret": SECRET} | hook}
    refused = posting.post("/classify", json=body, headers=headers)
    assert refused.status_code == 422
    assert refused.json()["errors"][0]["at"] == f"body.{at}"
    assert message in refused.json()["errors"][0]["message"]
    assert hook.get("secret", SECRET) not in refused.text


def test_no_host_is_allowed_unless_a_setting_names_it(client: httpx.Client) -> None:
    hook = {"url": "https://example.com/x", "secret": SECRET}
    refused = client.post("/classify", json={"text": "Good.", "webhook": hook}, headers=ASYNC)
    assert refused.status_code == 422
    assert "NEURON_API_WEBHOOK_HOSTS names no host" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("hosts", "url", "allowed"),
    [
        (["example.com"], "https://example.com/x", True),
        (["example.com"], "http://EXAMPLE.com", True),
        (["example.com"], "https://example.com:443/x", True),
        (["example.com"], "https://example.com.evil.com/x", False),
        (["example.com"], "https://evil-example.com/x", False),
        (["example.com"], "https://sub.example.com/x", False),
        (["*.example.com"], "https://sub.example.com/x", True),
        (["*.example.com"], "https://a.sub.example.com/x", True),
        (["*.example.com"], "https://example.com/x", False),
        (["*.example.com"], "https://.example.com/x", False),
        (["*.example.com"], "https://evilexample.com/x", False),
        (["*.example.com:8443"], "https://sub.example.com:8443/x", True),
        (["example.com:8443"], "https://example.com/x", False),
        (["example.com:443"], "https://example.com/x", True),
        (["example.com:443"], "https://example.com:443/x", True),
        (["example.com:443"], "http://example.com/x", False),
        (["example.com"], "https://example.com:8443/x", False),
        (["example.com"], r"https://evil.com\@example.com/x", False),
        (["example.com"], "https://evil.com#@example.com/x", False),
        (["127.0.0.1:9"], "http://2130706433:9/x", False),
        (["[::1]:9"], "http://[::1]:9/x", True),
        (["[::1]"], "http://[::1]/x", True),
    ],
)
def test_hosts_that_are_named(hosts: list[str], url: str, allowed: bool) -> None:
    assert (webhooks.forbidden(url, hosts) is None) == allowed


def test_a_signature_of_the_specification() -> None:
    """The example of https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md."""
    body = b'{"test": 2432232314}'
    secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"  # noqa: S105 - of the example
    found = webhooks.signature(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, body)
    assert found == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
