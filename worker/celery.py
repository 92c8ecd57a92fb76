"""The Celery application for Celery's own tools: `celery -A worker inspect ping`, Flower. Workers make their own."""

from celery import Celery

from contract import wire
from worker.settings import WorkerSettings

app = Celery("neuron", broker=WorkerSettings().broker_url)
app.conf.update(wire.celery_settings())
