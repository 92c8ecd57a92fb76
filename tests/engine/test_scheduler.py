"""The scheduler's properties: budgets of rows, interactive before bulk, no starvation, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.jobs import Priority
from engine.scheduler import Scheduler

PRIORITIES: list[Priority] = ["interactive", "bulk"]
arrivals = st.lists(st.sampled_from(PRIORITIES), max_size=60)
shares = st.floats(0, 0.95)


def filled(rows: list[Priority], max_rows: int) -> Scheduler[int]:
    scheduler: Scheduler[int] = Scheduler(max_rows, 0.5)
    for number, priority in enumerate(rows):
        scheduler.add(number, priority, 0.0)
    return scheduler


@given(arrivals, st.integers(1, 10))
def test_every_row_runs_once_and_in_turn_within_its_classs_budget(rows: list[Priority], max_rows: int) -> None:
    scheduler = filled(rows, max_rows)
    seen: list[int] = []
    while scheduler.waiting or scheduler.active:
        seen += scheduler.admit()
        active = len(seen) - (len(rows) - scheduler.waiting - scheduler.active)
        assert active <= 2 * max_rows
        for priority in PRIORITIES:
            of_class = [number for number, its in enumerate(rows) if its == priority]
            begun = [number for number in seen if rows[number] == priority]
            assert begun == of_class[: len(begun)]
        for priority in PRIORITIES:
            try:
                scheduler.leave(priority)
            except ValueError:
                continue
    assert sorted(seen) == list(range(len(rows)))


@given(arrivals, st.integers(1, 10))
def test_each_class_fills_its_places_whatever_the_other_does(rows: list[Priority], max_rows: int) -> None:
    admitted = filled(rows, max_rows).admit()
    for priority in PRIORITIES:
        assert sum(rows[number] == priority for number in admitted) == min(max_rows, rows.count(priority))


@given(arrivals, st.sets(st.integers(0, 59)))
def test_a_withdrawn_row_never_runs(rows: list[Priority], gone: set[int]) -> None:
    objects = [object() for _ in rows]
    scheduler: Scheduler[object] = Scheduler(len(rows) + 1, 0.5)
    for row, priority in zip(objects, rows, strict=True):
        scheduler.add(row, priority, 0.0)
    dead = [row for number, row in enumerate(objects) if number in gone]
    scheduler.withdraw(dead)
    admitted = scheduler.admit()
    assert {id(row) for row in admitted} == {id(row) for row in objects} - {id(row) for row in dead}


row_limits = st.integers(1, 256)


@given(st.integers(0, 300), st.integers(0, 300), row_limits, row_limits, shares, st.floats(0, 1), st.floats(0, 0.1))
def test_a_block_is_shared_as_promised(
    interactive: int, bulk: int, max_rows: int, fitting: int, bulk_share: float, step_s: float, row_s: float
) -> None:
    def step_seconds(rows: int) -> float:
        return step_s + row_s * rows

    scheduler: Scheduler[int] = Scheduler(max_rows, bulk_share)
    awaited, others = scheduler.share(interactive, bulk, step_seconds, fitting)
    max_rows = min(max_rows, fitting)
    assert awaited <= interactive
    assert others <= bulk
    assert (awaited > 0, others > 0) == (interactive > 0, bulk > 0)  # nobody starves
    assert awaited + others <= max(2, max_rows)
    if interactive == 0 or bulk == 0:
        assert awaited + others == min(interactive + bulk, max_rows)
        return
    slowed = step_seconds(awaited) / (1 - bulk_share)
    assert others == 1 or step_seconds(awaited + others) <= slowed
    if others < bulk and awaited + others < max_rows:
        assert step_seconds(awaited + others + 1) > slowed  # no bulk row stands still for nothing


def test_where_a_step_costs_the_same_for_all_rows_none_stands_still() -> None:
    assert Scheduler[int](256, 0.5).share(1, 255, lambda _: 1e-4, 256) == (1, 255)


def test_half_of_the_engine_is_a_step_of_twice_the_time() -> None:
    assert Scheduler[int](256, 0.5).share(10, 256, lambda rows: 100 + 10 * rows, 256) == (10, 20)
    assert Scheduler[int](256, 0.5).share(256, 256, lambda rows: rows, 256) == (128, 128)
    assert Scheduler[int](256, 0.0).share(256, 256, lambda rows: rows, 256) == (255, 1)


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="max_rows is 0"):
        Scheduler(0, 0.5)
    with pytest.raises(ValueError, match="bulk_share is 1"):
        Scheduler(1, 1.0)
    with pytest.raises(ValueError, match="without an active bulk row"):
        Scheduler(1, 0.5).leave("bulk")


def test_a_block_of_few_rows_waits_for_more_only_while_requests_keep_coming() -> None:
    scheduler: Scheduler[int] = Scheduler(max_rows=100, bulk_share=0.5, batching_delay_s=0.5)
    assert scheduler.batching_wait_s(0.0) == 0.0
    for row in range(3):  # one request of three rows
        scheduler.add(row, "interactive", 10.0)
    scheduler.admit()
    assert scheduler.batching_wait_s(10.0) == 0.0
    scheduler.add(3, "interactive", 11.0)
    assert scheduler.batching_wait_s(11.0) == 0.5
    assert scheduler.batching_wait_s(12.1) == 0.0  # the last but one came more than four waits ago
    for row in range(4, 40):
        scheduler.add(row, "interactive", 11.5)
    assert scheduler.batching_wait_s(11.5) == 0.0  # well filled


def test_one_client_that_asks_again_and_again_never_waits_for_more() -> None:
    scheduler: Scheduler[int] = Scheduler(max_rows=100, bulk_share=0.5, batching_delay_s=0.5)
    for turn in range(5):
        scheduler.add(turn, "interactive", turn / 10)
        assert scheduler.batching_wait_s(turn / 10) == 0.0
        scheduler.admit()
        scheduler.leave("interactive")
