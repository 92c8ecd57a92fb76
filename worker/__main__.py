"""`python -m worker`: one worker process."""

from worker.service import main

main()
