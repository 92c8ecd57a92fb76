"""What is on the wire: one table of Redis keys, and jobs of a newer version."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from contract import wire
from contract.jobs import JOB, ClassifyJob

ROOT = Path(__file__).parents[2]


def test_the_architecture_page_shows_the_table_of_keys() -> None:
    table = re.search(r"(?:^\|.*\n)+", wire.__doc__ or "", re.MULTILINE)
    assert table is not None
    assert table.group() in (ROOT / "docs/architecture.md").read_text()


def test_a_job_that_asks_for_what_is_not_known_is_refused() -> None:
    """As a worker that is older than the gateway must."""
    job = ClassifyJob(id="A" * 32, timeout_s=1.0, texts=["Good."], head="sentiment")
    assert JOB.validate_python(job.model_dump()) == job
    with pytest.raises(ValidationError):
        JOB.validate_python(job.model_dump() | {"new": 1})
