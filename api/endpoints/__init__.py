"""The endpoints, and the answering of a request that makes a job (`call.py`)."""
