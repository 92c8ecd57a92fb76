"""`python -m worker`: one worker process."""

from engine.openmp import spin_briefly

spin_briefly()

from worker.process import main  # noqa: E402 - loads torch

main()
