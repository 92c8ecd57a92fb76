"""Which requests of a load count: those of its time, or, where none ended in it, those that were under way."""

from benchmarks.windows import counted


def test_the_requests_of_the_load_s_time_count() -> None:
    assert counted([0.2, 0.5, 0.9, 1.0, 1.3], warm_up_s=0.5, seconds=1.0) == ([1, 2, 3], 0.5)


def test_a_load_slower_than_its_time_is_measured_until_its_requests_have_ended() -> None:
    assert counted([1.5, 2.0], warm_up_s=0.5, seconds=1.0) == ([0, 1], 2.0)
    assert counted([0.25, 0.125, 1.5, 2.25], warm_up_s=0.5, seconds=1.0) == ([2, 3], 2.0)
