"""`python -m sparseq` runs the command line, as `sparseq` does."""

import sys

from sparseq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
