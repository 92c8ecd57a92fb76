"""The scheduler's properties: a budget of rows, interactive before bulk, no starvation, nothing lost."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.scheduler import Priority, Scheduler

# Whole seconds: sums of floats would make ties that say nothing about the order.
arrivals = st.lists(st.tuples(st.sampled_from(["interactive", "bulk"]), st.integers(0, 1000).map(float)), max_size=60)


def filled(rows: list[tuple[Priority, float]], max_rows: int, ageing_s: float) -> Scheduler[int]:
    scheduler: Scheduler[int] = Scheduler(max_rows, ageing_s)
    for number, (priority, now) in enumerate(rows):
        scheduler.add(number, priority, now)
    return scheduler


@given(arrivals, st.integers(1, 10), st.floats(0, 100))
def test_every_row_runs_once_within_the_budget(
    rows: list[tuple[Priority, float]], max_rows: int, ageing_s: float
) -> None:
    scheduler = filled(rows, max_rows, ageing_s)
    seen: list[int] = []
    while scheduler.waiting or scheduler.active:
        seen += scheduler.admit()
        assert scheduler.active <= max_rows
        assert scheduler.active == max_rows or not scheduler.waiting
        scheduler.leave()
    assert sorted(seen) == list(range(len(rows)))


@given(arrivals, st.integers(0, 100).map(float))
def test_the_order_is_that_of_virtual_arrival(rows: list[tuple[Priority, float]], ageing_s: float) -> None:
    order = filled(rows, len(rows) + 1, ageing_s).admit()
    virtual = [rows[n][1] + (ageing_s if rows[n][0] == "bulk" else 0) for n in order]
    assert virtual == sorted(virtual)
    for priority in ("interactive", "bulk"):
        same = [n for n in order if rows[n][0] == priority]
        assert [rows[n][1] for n in same] == sorted(rows[n][1] for n in same)


@given(arrivals, st.sets(st.integers(0, 59)))
def test_a_withdrawn_row_never_runs(rows: list[tuple[Priority, float]], gone: set[int]) -> None:
    objects = [object() for _ in rows]
    scheduler: Scheduler[object] = Scheduler(len(rows) + 1, 1.0)
    for row, (priority, now) in zip(objects, rows, strict=True):
        scheduler.add(row, priority, now)
    dead = [row for number, row in enumerate(objects) if number in gone]
    scheduler.withdraw(dead)
    admitted = scheduler.admit()
    assert {id(row) for row in admitted} == {id(row) for row in objects} - {id(row) for row in dead}


def test_interactive_overtakes_bulk_but_only_for_so_long() -> None:
    scheduler: Scheduler[str] = Scheduler(1, ageing_s=10.0)
    scheduler.add("bulk at 0", "bulk", 0.0)
    scheduler.add("interactive at 9", "interactive", 9.0)
    scheduler.add("interactive at 11", "interactive", 11.0)
    order = []
    while scheduler.waiting:
        order += scheduler.admit()
        scheduler.leave()
    assert order == ["interactive at 9", "bulk at 0", "interactive at 11"]


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(ValueError, match="max_rows is 0"):
        Scheduler(0, 1.0)
    with pytest.raises(ValueError, match="without an active row"):
        Scheduler(1, 1.0).leave()


def test_a_block_of_few_rows_waits_for_company_only_while_requests_keep_coming() -> None:
    scheduler: Scheduler[int] = Scheduler(max_rows=100, ageing_s=1.0, gather_s=0.5)
    assert scheduler.company_wait_s(0.0) == 0.0
    for row in range(3):  # one request of three rows
        scheduler.add(row, "interactive", 10.0)
    scheduler.admit()
    assert scheduler.company_wait_s(10.0) == 0.0
    scheduler.add(3, "interactive", 11.0)
    assert scheduler.company_wait_s(11.0) == 0.5
    assert scheduler.company_wait_s(12.1) == 0.0  # the last but one came more than four waits ago
    for row in range(4, 40):
        scheduler.add(row, "interactive", 11.5)
    assert scheduler.company_wait_s(11.5) == 0.5
    scheduler.admit()
    assert scheduler.company_wait_s(11.5) == 0.0  # well filled
