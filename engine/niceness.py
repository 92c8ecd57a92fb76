"""`be_nice`: the threads that compute leave the cores to those that answer."""

import os
import sys
import threading

# Low enough that on a CPU running rows do not hold up new ones: a step of all of them costs little more than a step of
# few.
_NICENESS = 5


def be_nice() -> None:
    """For the thread that calls it; on Linux alone, because elsewhere niceness belongs to the whole process."""
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
