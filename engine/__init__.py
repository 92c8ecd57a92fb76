"""One process, one device: rows, scheduler, backends, prefix cache, kernels. It knows neither Celery nor Redis."""
