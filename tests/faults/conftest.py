"""The account that every fault must leave, and the figures for docs/reliability.md.

`FAULTS_JSON=FILE .venv/bin/pytest -m faults` adds a row for every fault to FILE, and meets it with a larger load.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.faults.figures import record
from tests.faults.load import Load, left_behind

Accounted = Callable[..., None]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.faults)
            item.add_marker(pytest.mark.slow)


@pytest.fixture
def accounted() -> Accounted:
    """Every accepted job had one right result, or one clear failure where the fault allows it; nothing is left over."""

    def accounted(fault: str, load: Load, redis_url: str, moment: float, may_fail: int = 0) -> None:
        """moment: of the fault, by time.monotonic. may_fail: jobs that may end with a clear failure."""
        account = load.account()
        in_flight = [job for job in account.jobs if job.sent <= moment and (job.ended is None or job.ended > moment)]
        row = {
            "fault": fault,
            "clients": load.clients,
            "jobs_accepted": len(account.accepted),
            "jobs_in_flight": len(in_flight),
            "lost": len(account.lost),
            "different": len(account.wrong),
            "failed": sum(account.failed.values()),
            "recovery_s": round(account.recovery_s(moment), 1),
        }
        assert in_flight, "the fault met no job"
        assert not account.lost, (row, account.lost[:3])
        assert not account.wrong, (row, account.wrong[:3])
        assert sum(account.failed.values()) <= may_fail, (row, account.failed)
        assert left_behind(redis_url) == {}, row
        record(row)

    return accounted
