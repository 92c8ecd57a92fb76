"""What gateway and workers share: the JSON of jobs and outcomes (`jobs.py`), names and keys in Redis (`wire.py`), Lua.

Written once, imported by both. It computes nothing and imports neither torch nor a server.
"""
