"""Job in, batched inference, result out: a Celery worker around one engine that owns the device."""
