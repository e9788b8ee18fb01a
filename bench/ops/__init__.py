"""One file per operator, named as in sparseq/ops."""
