"""`neuron api` and `neuron worker`: one process of the service each."""

import click

from cli.setting_options import checkpoint_option, host_option, metrics_port_option, port_option


@click.command()
@port_option
@host_option
def api() -> None:
    """Run the gateway. Settings: NEURON_API_..., NEURON_REDIS_URL."""
    from api.server import main  # a gateway's machine has no torch

    main()


@click.command()
@checkpoint_option
@metrics_port_option
def worker() -> None:
    """Run a worker. Settings: NEURON_WORKER_..., NEURON_CHECKPOINT_DIR, NEURON_REDIS_URL."""
    from worker.process import main  # a gateway's machine has no torch

    main()
