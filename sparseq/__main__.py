"""`python -m sparseq` is `sparseq`."""

import sys

from sparseq.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
