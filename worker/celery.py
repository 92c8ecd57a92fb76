"""The Celery application for Celery's own tools: `celery -A worker inspect ping`, Flower. Workers make their own."""

from celery import Celery

from contract import redis_url, wire
from worker.settings import WorkerSettings

broker, options = redis_url.broker(WorkerSettings().redis_url)
app = Celery("neuron", broker=broker)
app.conf.update(wire.celery_settings(options))
