"""The form in which the gateway shows the result of a job: `Form`. It is kept with the job, not told to workers."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Self


class Skipped(NamedTuple):
    """Why a text of a request was left out. kind: of a problem (`api/problems.py`)."""

    kind: str
    detail: str


@dataclass(frozen=True)
class Form:
    """encoding: of features, `float`, `base64` or `npy`. skipped: by its number, each text that was left out."""

    encoding: str = "float"
    skipped: Mapping[int, Skipped] = field(default_factory=dict)

    def skipped_json(self) -> str:
        """Empty where none was."""
        return json.dumps(self.skipped) if self.skipped else ""

    @classmethod
    def of(cls, encoding: str, skipped_json: str) -> Self:
        skipped = json.loads(skipped_json or "{}")
        return cls(encoding, {int(number): Skipped(*why) for number, why in skipped.items()})


AS_IT_IS = Form()
