"""POST /generate: seeds, sentiment, likelihood, stops and streams."""

import json
import socket
from collections.abc import Iterator
from itertools import pairwise

import httpx
import pytest

from tests.conftest import Stack, wait_until


def generate(client: httpx.Client, **body: object) -> dict[str, object]:
    response: dict[str, object] = client.post("/generate", json=body).raise_for_status().json()
    return response


def events(lines: Iterator[str]) -> Iterator[tuple[str, str, dict[str, object]]]:
    """(id, event, data) of server-sent events."""
    fields: dict[str, str] = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            fields[name] = value
        elif fields:
            yield fields.get("id", ""), fields["event"], json.loads(fields["data"])
            fields = {}


def test_the_same_seed_gives_the_same_text_and_another_seed_another(client: httpx.Client) -> None:
    body = {"prompt": "The film", "length": 60, "stop": []}
    first = generate(client, **body, seed=7)
    assert generate(client, **body, seed=7) == first
    assert generate(client, **body, seed=8)["results"] != first["results"]
    drawn = generate(client, **body)
    assert generate(client, **body, seed=drawn["seed"]) == drawn


def test_opposite_sentiments_with_one_seed_give_different_texts(client: httpx.Client) -> None:
    body = {"prompt": "The film", "length": 80, "seed": 3, "stop": []}
    assert generate(client, **body, sentiment=1)["results"] != generate(client, **body, sentiment=-1)["results"]


def test_a_clamp_wins_over_sentiment(client: httpx.Client) -> None:
    body = {"prompt": "The film", "length": 80, "seed": 3, "stop": []}
    # Sentiment 1 asks for 0.1 - 1 * 0.5 (polarity -1) of unit 5.
    assert generate(client, **body, sentiment=1) == generate(client, **body, clamp={"5": -0.4})
    assert generate(client, **body, sentiment=-1, clamp={"5": -0.4}) == generate(client, **body, sentiment=1)


def test_best_of_returns_the_most_likely_first(client: httpx.Client) -> None:
    body = {"length": 40, "seed": 5, "stop": []}
    every = generate(client, **body, n=8)["results"]
    assert isinstance(every, list)
    likelihoods = [result["mean_log_probability"] for result in every]
    assert likelihoods == sorted(likelihoods, reverse=True)
    assert len({result["text"] for result in every}) > 1
    assert generate(client, **body, n=2, best_of=8)["results"] == every[:2]


@pytest.mark.parametrize("sentiment", [1, 0.5, -1])
def test_ranked_by_sentiment_the_nearest_comes_first_as_classify_reads_it(
    client: httpx.Client, sentiment: float
) -> None:
    body = {"prompt": "The film ", "length": 40, "seed": 5, "stop": [], "sentiment": sentiment, "best_of": 8}
    ranked = generate(client, **body, n=8, rank_by="sentiment")["results"]
    likeliest = generate(client, **body, n=8)["results"]
    assert isinstance(ranked, list)
    assert isinstance(likeliest, list)
    assert {result["text"] for result in ranked} == {result["text"] for result in likeliest}
    read = client.post("/classify", json={"texts": ["The film " + result["text"] for result in ranked]}).json()
    positive = [result["positive"] for result in ranked]
    assert positive == pytest.approx([result["probabilities"]["positive"] for result in read["results"]], abs=1e-3)
    assert len(set(positive)) > 1
    distances = [abs(value - (1 + sentiment) / 2) for value in positive]
    assert distances == sorted(distances)
    assert generate(client, **body, n=2, rank_by="sentiment")["results"] == ranked[:2]


def test_greedy_does_not_depend_on_the_seed(client: httpx.Client) -> None:
    texts = [generate(client, length=30, temperature=0, stop=[], seed=seed)["results"] for seed in (1, 2)]
    assert texts[0] == texts[1]


def test_length_and_stop(client: httpx.Client) -> None:
    full = generate(client, length=200, seed=11, stop=[])["results"][0]  # type: ignore[index]
    assert full["finish_reason"] == "length"
    # Not a replacement character, which stands for bytes that are no UTF-8.
    middle = next(pair for pair in map("".join, pairwise(full["text"][40:])) if pair.isascii())
    begin = full["text"].index(middle)
    stopped = generate(client, length=200, seed=11, stop=[middle])["results"][0]  # type: ignore[index]
    assert stopped["finish_reason"] == "stop"
    assert stopped["text"] == full["text"][:begin]


def test_a_row_does_not_depend_on_its_neighbours(client: httpx.Client) -> None:
    alone = generate(client, prompt="One", length=60, seed=21, stop=[])["results"]
    with_others = generate(client, prompt="One", length=60, seed=21, stop=[], n=16)["results"]
    assert isinstance(alone, list)
    assert isinstance(with_others, list)
    assert alone[0]["text"] == next(result["text"] for result in with_others if result["index"] == 0)


def test_a_stream_tells_the_same_text_in_whole_characters(client: httpx.Client) -> None:
    body = {"prompt": "Well", "length": 300, "seed": 9, "stop": [], "temperature": 2.0, "n": 2}
    with client.stream("POST", "/generate", json=body | {"stream": True}) as response:
        assert response.headers["content-type"].startswith("text/event-stream")
        received = list(events(response.iter_lines()))
    assert [event for _, event, _ in received][-1] == "done"
    tokens = [data for _, event, data in received if event == "token"]
    assert len(tokens) > 2
    result = generate(client, **body)
    assert received[-1][2] == result
    for sample in result["results"]:  # type: ignore[attr-defined]
        assert "".join(str(data["text"]) for data in tokens if data["index"] == sample["index"]) == sample["text"]


def test_a_stream_can_be_cut_and_resumed(client: httpx.Client, stack: Stack) -> None:
    body = {"prompt": "Well", "length": 1000, "seed": 13, "stop": [], "stream": True}
    whole = generate(client, **body | {"stream": False})["results"][0]["text"]  # type: ignore[index]
    with client.stream("POST", "/generate", json=body) as response:
        where = response.headers["location"]
        received = events(response.iter_lines())
        first = [next(received) for _ in range(3)]
    resumed: list[tuple[str, str, dict[str, object]]] = []
    with client.stream("GET", where + "/events", headers={"Last-Event-ID": first[-1][0]}) as response:
        resumed = list(events(response.iter_lines()))
    assert resumed[-1][1] == "done"
    tokens = [data for _, event, data in first + resumed if event == "token"]
    assert "".join(str(data["text"]) for data in tokens) == whole
    ids = [event_id for event_id, _, _ in first + resumed]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_disconnects_stops_its_row(stack: Stack, stream: bool) -> None:
    cancelled = stack.worker_metric("neuron_rows_ended_total", '{how="cancelled"}')
    body = json.dumps({"prompt": "On and on", "length": 1_000_000, "stop": [], "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", int(stack.environment["NEURON_API_PORT"]))) as connection:
        connection.sendall(
            b"POST /generate HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\n"
            + b"Content-Length: %d\r\n\r\n" % len(body)
            + body
        )
        wait_until(lambda: stack.worker_metric("neuron_rows_active") > 0, what="the row's start")
        if stream:
            assert connection.recv(4096).startswith(b"HTTP/1.1 200")
    wait_until(
        lambda: stack.worker_metric("neuron_rows_ended_total", '{how="cancelled"}') > cancelled,
        what="the row's cancellation",
    )
    wait_until(lambda: stack.worker_metric("neuron_rows_active") == 0, what="an idle engine")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"sentiment": 1.5}, "less than or equal to 1"),
        ({"temperature": -1}, "greater than or equal to 0"),
        ({"n": 3, "best_of": 2}, "best_of is 2, less than n"),
        ({"best_of": 2, "stream": True}, "a stream cannot take the best of several"),
        ({"rank_by": "sentiment", "best_of": 2}, "no sentiment is asked for"),
        ({"rank_by": "sentiment", "sentiment": 1, "stream": True}, "a stream cannot be ranked"),
        ({"rank_by": "length"}, "'likelihood' or 'sentiment'"),
        ({"clamp": {"-1": 0.0}}, "not the number of a unit"),
        ({"seed": 2**63}, "less than"),
        ({"seed": "5"}, "not a number"),
        ({"stream": 1}, "valid boolean"),
        ({"lenght": 5}, "lenght"),
    ],
)
def test_what_makes_no_sense_is_refused(client: httpx.Client, body: dict[str, object], said: str) -> None:
    response = client.post("/generate", json=body)
    assert response.status_code == 422
    assert said in response.json()["detail"]


def test_a_clamp_on_a_unit_that_does_not_exist(client: httpx.Client) -> None:
    response = client.post("/generate", json={"clamp": {"48": 1.0}})
    assert response.status_code == 404
    assert response.json()["type"].endswith(":unknown-unit")
