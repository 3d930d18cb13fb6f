"""`python -m retrodistill`."""

from retrodistill.cli import main

main()
