"""The state of the service: models, liveness, readiness, metrics."""

from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from api.problems import OPENAPI, Problem
from api.redis.parts import parts_of
from api.schemas import responses
from contract import wire
from contract.jobs import WorkerStatus

router = APIRouter(tags=["service"])


@router.get(
    "/models",
    response_model=responses.ModelsResponse,
    responses={503: OPENAPI | {"description": "Redis does not answer"}},
)
async def list_models(request: Request) -> dict[str, Any]:
    """The models that workers serve now, with their heads."""
    found = {(model.name, model.step): model for model in await parts_of(request).fleet.models()}
    return {"models": list(found.values())}


@router.get("/healthz")
async def healthz() -> dict[str, str]:
    """The gateway process answers. Does not depend on Redis or workers, so that their faults never restart it."""
    return {"status": "ok"}


@router.get("/readyz", responses={503: OPENAPI | {"description": "Redis away, or no worker ready"}})
async def readyz(request: Request) -> Response:
    """200 when Redis answers and at least one worker has a warm model and an engine that moves."""
    workers = await parts_of(request).fleet.workers()
    ready = [worker for worker in workers if worker.ready]
    if not ready:
        reasons = [f"worker {worker.id} {_reason(worker)}" for worker in workers]
        detail = "; ".join(reasons) or "no worker has sent a heartbeat: none runs, or none has loaded its model yet"
        raise Problem("not-ready", detail, {"Retry-After": str(request.app.state.settings.api_retry_after_s)})
    return JSONResponse({"status": "ready", "workers": len(ready)})


def _reason(worker: WorkerStatus) -> str:
    """Why a worker is not ready."""
    if worker.stopping:
        return "is stopping"
    if worker.engine_age_s < wire.HEARTBEAT_INTERVAL_S:  # it moved a moment ago, so it does not hang
        return "has an engine that has failed: the worker's log says how"
    return f"has an engine that has not moved for {worker.engine_age_s:.0f} s"


@router.get("/metrics", include_in_schema=False)
async def metrics(request: Request) -> Response:
    """Prometheus metrics of this gateway process, and of the queue."""
    await parts_of(request).fleet.observe()
    return Response(generate_latest(), media_type=CONTENT_TYPE_LATEST)
