"""What a worker process loads before it can serve."""

import subprocess
import sys


def test_a_worker_does_not_load_torchs_compiler() -> None:
    """It never compiles, and the import takes as long as all others together."""
    program = "import sys, worker.process; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
