"""What gateway and workers say to each other: `jobs` (the JSON of a job and its outcome), `wire` (Redis keys, queue).

Written once, imported by both. It computes nothing and imports neither torch nor a server.
"""
