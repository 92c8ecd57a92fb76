"""The endpoints, and how a request that makes a job is answered."""
