"""`neuron api` and `neuron worker`: one process of the service each."""

import click


@click.command()
def api() -> None:
    """Run the gateway. Settings: NEURON_API_..., NEURON_REDIS_URL."""
    from api.server import main  # noqa: PLC0415 - a gateway's machine has no torch

    main()


@click.command()
def worker() -> None:
    """Run a worker. Settings: NEURON_WORKER_..., NEURON_CHECKPOINT_DIR, NEURON_REDIS_URL."""
    from worker.process import main  # noqa: PLC0415 - a gateway's machine has no torch

    main()
