"""Run the public op and its gradients on Triton's interpreter against plain float64 torch."""

from __future__ import annotations

import torch

from sparseq.ops._backend import activate
from sparseq.ops.hamilton import hamilton, hamilton_reference
from tests.ops.cases import assert_near, normal

OPS = ("hamilton", "hamilton_dx", "hamilton_dw")


def first_and_second_order(run, x, weight, bias, algorithm):
    """y, the gradients of a function of y, and the gradients of a function of those."""
    tensors = [t.requires_grad_() for t in (x, weight, bias)]
    y = run(*tensors, algorithm)
    first = torch.autograd.grad(y.square().sum(), tensors, create_graph=True)
    second = torch.autograd.grad(sum(g.sum() for g in first), tensors)
    return y, *first, *second


def compare(algorithm: str) -> None:
    sizes = (9, 20), (4, 7, 5), (28,)
    exact = [normal(*size) for size in sizes]
    got = first_and_second_order(hamilton, *[t.float() for t in exact], algorithm)
    want = first_and_second_order(hamilton_reference, *exact, algorithm)
    for ours, theirs in zip(got, want, strict=True):
        assert_near(ours.detach(), theirs.detach())


if __name__ == "__main__":
    serving = activate("cpu")
    assert all(serving[name] == "triton" for name in OPS), serving
    for algorithm in ("auto", "8", "16"):
        compare(algorithm)
    print("agrees")
