"""L4: conversion of a pruned model to sparse layers, which store and compute only kept weights."""

from sparseq.compression.sparsify import compress

__all__ = ["compress"]
