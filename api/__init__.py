"""HTTP in, job out: the gateway. It validates, admits, queues, waits and answers; it never computes."""
