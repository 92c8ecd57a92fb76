"""`python -m tests.worker.hurried`: a worker whose leases lapse, and whose looks come, several times as soon.

Tests of what follows a lapsed lease, a lost message or a hung engine need not wait as long as a service must. It can
be hurt, too: see tests/worker/sabotaged.py.
"""

import importlib

from contract import wire

ENGINE_STALLED_S = 3.0
LAST_S = 2.0

if __name__ == "__main__":
    vars(wire).update(
        LEASE_S=3.0, LOST_S=5.0, ENGINE_STALLED_S=ENGINE_STALLED_S, HEARTBEAT_INTERVAL_S=0.5, HEARTBEAT_TTL_S=2
    )
    # What computes with these times is loaded after them.
    service = importlib.import_module("worker.service")
    vars(service).update(_REAP_S=(0.3, 0.5), _STALL_LOOK_S=0.25, _LAST_S=LAST_S)
    importlib.import_module("tests.worker.sabotaged").process.main()
