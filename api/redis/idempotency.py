"""`Idempotency-Key`: a request that comes again, because its answer was lost, gets the job that it made before.

The admission script keeps, by a digest of whose key it is and where it was sent, the job's id and a fingerprint of the
request; so two gateways that hear of one key at once make one job.
"""

import hashlib
from dataclasses import dataclass

from fastapi import Request
from pydantic import BaseModel

from api import metrics
from api.keys import Key
from api.problems import Problem
from contract import wire

HEADER = "Idempotency-Key"
# Printable ASCII; spaces around a value belong to the header's syntax.
PATTERN = "^[!-~]([ -~]{0,253}[!-~])?$"
REPLAYED = {"Idempotency-Replayed": "true"}


@dataclass(frozen=True)
class Once:
    """A request that makes one job however often it comes."""

    name: str  # Redis key
    fingerprint: str

    def job_of(self, made: str) -> str:
        """The id of the job that the key made. Raises Problem if that was another request's."""
        job_id, _, fingerprint = made.partition(" ")
        if fingerprint != self.fingerprint:
            metrics.REFUSED.labels("idempotency-key-reused").inc()
            detail = f"the {HEADER} came before with another body: send another key, or the same body"
            raise Problem("idempotency-key-reused", detail)
        return job_id


def once(request: Request, key: str, owner: Key | None, body: BaseModel) -> Once:
    whose = "\n".join((owner.name if owner else "", request.url.path, key))
    digest = hashlib.sha256(whose.encode()).hexdigest()
    # The body as it was understood: defaults are filled in, a seed that the service will draw is not.
    return Once(wire.idempotency(digest), hashlib.sha256(body.model_dump_json().encode()).hexdigest())
