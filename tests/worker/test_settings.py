"""Former names of the worker's settings."""

import pytest

from contract.settings import UnknownSettingError
from worker.settings import WorkerSettings


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("NEURON_WORKER_STATE_CACHE_MB", "NEURON_WORKER_PREFIX_CACHE_MB"),
        ("NEURON_WORKER_GATHER_MS", "NEURON_WORKER_BATCHING_DELAY_MS"),
    ],
)
def test_a_former_name_is_refused_with_the_present_one(monkeypatch: pytest.MonkeyPatch, old: str, new: str) -> None:
    monkeypatch.setenv(new, "7")
    WorkerSettings()
    monkeypatch.setenv(old, "7")
    with pytest.raises(UnknownSettingError, match=rf"^{old} .* {new}$"):
        WorkerSettings()
