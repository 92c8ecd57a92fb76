"""The side of Redis that the gateway needs: admission, jobs, their ends and their streams."""
