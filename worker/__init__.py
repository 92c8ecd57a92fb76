"""Job in, rows to the engine, result out: Celery, leases, results and the model that is served."""
