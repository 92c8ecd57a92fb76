"""`python -m api`: one gateway process."""

from api.server import main

main()
