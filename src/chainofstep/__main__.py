"""`python -m chainofstep` is `cos`."""

from chainofstep.cli import main

if __name__ == "__main__":
    main()
