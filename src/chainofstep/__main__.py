"""`python -m chainofstep` is `cos`."""

from chainofstep.cli import main

main()
