"""`Idempotency-Key`: a request that is repeated, because its answer was lost, gets the job that it made before.

The admission script (`submissions.py`) keeps the job's id and a fingerprint of the request under a digest of the
request's owner, path and key, so two gateways that receive one key at the same time make one job.
"""

import hashlib
from dataclasses import dataclass
from typing import Self

from fastapi import Request

from api.keys import Key
from api.problems import Problem
from contract import wire

HEADER = "Idempotency-Key"
# Printable ASCII; spaces around a value belong to the header's syntax.
PATTERN = "^[!-~]([ -~]{0,253}[!-~])?$"
REPLAYED = {"Idempotency-Replayed": "true"}


@dataclass(frozen=True)
class IdempotentRequest:
    """A request that makes one job, or one batch, however often it is sent."""

    redis_key: str
    fingerprint: str

    @classmethod
    def of(cls, request: Request, idempotency_key: str, owner: Key | None, content: str) -> Self:
        """content: what may not differ when the key comes again."""
        identity = "\n".join((owner.name if owner else "", request.url.path, idempotency_key))
        digest = hashlib.sha256(identity.encode()).hexdigest()
        return cls(wire.idempotency(digest), hashlib.sha256(content.encode()).hexdigest())

    def job_of(self, made: str) -> str:
        """The id of what the key made. Raises Problem if another request made it.

        made: "ID FINGERPRINT", as Redis keeps it.
        """
        job_id, _, fingerprint = made.partition(" ")
        if fingerprint != self.fingerprint:
            detail = f"the {HEADER} came before with another body: send another key, or the same body"
            raise Problem("idempotency-key-reused", detail)
        return job_id
