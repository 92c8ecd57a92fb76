"""`neuron up`: embedded Redis, a worker and the gateway as child processes, stopped together in the right order."""

import os
import signal
import socket
import time

import click

from api.settings import ApiSettings
from cli.setting_options import checkpoint_option, host_option, metrics_port_option, port_option
from cli.stack.children import Children, workers_ready
from contract.ports import check_port
from worker.settings import WorkerSettings


class _Stopped(Exception):
    """SIGINT or SIGTERM came."""


@click.command()
@port_option
@host_option
@checkpoint_option
@click.option("--workers", type=click.IntRange(1), default=1, show_default=True, help="How many workers.")
@metrics_port_option
def up(workers: int) -> None:
    """Serve on this machine: embedded Redis (unless NEURON_REDIS_URL names one), workers and the gateway.

    Of several workers each next one has the next port for its metrics.
    """
    signal.signal(signal.SIGINT, _stop)
    signal.signal(signal.SIGTERM, _stop)
    # A fault in the settings is found before anything is started.
    settings, of_worker = ApiSettings(), WorkerSettings()
    check_port(settings.api_host, settings.api_port, "NEURON_API_PORT")
    metrics = [of_worker.worker_metrics_port and of_worker.worker_metrics_port + number for number in range(workers)]
    for port in metrics:
        check_port(of_worker.worker_metrics_host, port, "NEURON_WORKER_METRICS_PORT", socket.AF_INET)
    children = Children()
    failure = None
    try:
        environment = dict(os.environ)
        environment.setdefault("NEURON_API_BATCH_STORAGE", str(settings.data_dir / "batches"))
        if "NEURON_REDIS_URL" not in environment:
            environment["NEURON_REDIS_URL"] = children.start_redis(settings.data_dir / "redis", environment)
        # The gateway last, so that it is stopped first and accepts nothing more; Redis stops after all others, so that
        # running jobs can still be answered.
        for number, port in enumerate(metrics, start=1):
            name = "worker" if workers == 1 else f"worker {number}"
            children.start(name, environment | {"NEURON_WORKER_METRICS_PORT": str(port)}, "worker")
        children.start("api", environment, "api")
        url = f"http://{_reachable(settings.api_host)}:{settings.api_port}"
        children.wait_until(lambda: workers_ready(url) >= workers, f"{url}/readyz does not tell of {workers} workers")
        click.echo(_greeting(url, [f"http://{of_worker.worker_metrics_host}:{port}" for port in metrics if port]))
        while True:
            children.check()
            time.sleep(0.5)
    except _Stopped:
        click.echo("stopping ...", err=True)
    except click.ClickException as error:
        failure = error
    finally:
        # From here on a second signal must not leave anything running.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        children.stop()
    if failure is not None:
        raise failure


def _stop(*_: object) -> None:
    raise _Stopped


def _reachable(host: str) -> str:
    return "127.0.0.1" if host in ("0.0.0.0", "::", "") else host  # noqa: S104 - compared, not bound


def _greeting(url: str, workers: list[str]) -> str:
    pages = ", ".join(f"{one}/metrics" for one in (url, *workers))
    return f"""
Sentiment Neuron is up.

  page     {url}
  try it   curl -s {url}/classify -H 'Content-Type: application/json' -d '{{"text": "What a lovely film."}}'
  docs     {url}/docs
  OpenAI   {url}/v1
  metrics  {pages}
  stop     Ctrl-C
"""
