"""`python -m fedmrn` is the same as `fedmrn`."""

from fedmrn.cli import main

main()
