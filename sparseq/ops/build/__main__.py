"""`python -m sparseq.ops.build`, the kernels' builder without the rest of the command line."""

from sparseq.ops.build import main

main()
