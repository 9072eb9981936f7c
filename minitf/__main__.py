"""`python -m minitf`: the same as the `minitf` command."""

import sys

from minitf.cli import main

if __name__ == "__main__":
    sys.exit(main())
