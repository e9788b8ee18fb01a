"""Different dtypes are an error before any kernel runs, with the names that torch prints."""

from __future__ import annotations

import pytest
import torch

from sparseq.ops.block_mm import block_mm
from sparseq.ops.geometry import ConvGeometry
from sparseq.ops.hamilton import hamilton
from sparseq.ops.hamilton_conv import hamilton_conv, hamilton_conv_transpose
from sparseq.ops.sddmm import sddmm
from sparseq.ops.sparse_conv import sparse_conv
from sparseq.ops.sparse_conv_chain import sparse_conv_chain
from sparseq.ops.sparse_hamilton import sparse_hamilton
from sparseq.ops.spmm import spmm
from sparseq.ops.spmm_chain import spmm_chain
from tests.op_samples import pattern

SPARSE = pattern(8, 8).tensors
VALUES = torch.ones(len(SPARSE[1]))
X, BIAS = torch.ones(3, 8), torch.ones(8)

IMAGE, KERNEL = torch.ones(1, 8, 3, 1), torch.ones(4, 2, 2, 1, 1)

# op -> call(x, bias)
OPS = {
    "spmm": lambda x, bias: spmm(x, VALUES, SPARSE, bias),
    "spmm_chain": lambda x, bias: spmm_chain(x, [VALUES], [bias], SPARSE, [0]),
    "block_mm": lambda x, bias: block_mm(x, VALUES[:, None, None], SPARSE, bias),
    "sparse_hamilton": lambda x, bias: sparse_hamilton(x.repeat(1, 4), VALUES, SPARSE, bias),
    "hamilton": lambda x, bias: hamilton(x, KERNEL[..., 0, 0], bias),
    "sparse_conv": lambda x, bias: sparse_conv(
        IMAGE.to(x.dtype), VALUES, SPARSE, bias, ConvGeometry.of((1, 1))
    ),
    "sparse_conv_chain": lambda x, bias: sparse_conv_chain(
        IMAGE.to(x.dtype), [VALUES], [bias], SPARSE, [ConvGeometry.of((1, 1))], [1], [1]
    ),
    "hamilton_conv": lambda x, bias: hamilton_conv(IMAGE.to(x.dtype), KERNEL, bias),
}


@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.int64])
def test_another_dtype_of_x_or_bias_is_named(op, dtype):
    rule = f"must have the dtype of (values|weight), torch.float32, got {dtype}"
    with pytest.raises(ValueError, match=rf"^{op}.*: x {rule}$"):
        OPS[op](X.to(dtype), BIAS)
    with pytest.raises(ValueError, match=rf"^{op}.*: bias {rule}$"):
        OPS[op](X, BIAS.to(dtype))
    assert OPS[op](X, BIAS).dtype == torch.float32


def test_ops_without_a_bias_name_x():
    with pytest.raises(ValueError, match=r"sddmm: x must have the dtype of dy, torch.float32"):
        sddmm(X, X.double(), SPARSE)
    with pytest.raises(
        ValueError, match=r"transpose: x must .* weight, torch.float32, got torch.f"
    ):
        hamilton_conv_transpose(IMAGE.double(), KERNEL)


@pytest.mark.parametrize("op", OPS)
def test_autocast_unifies_the_dtypes(op):
    with torch.autocast("cpu", torch.bfloat16):
        assert OPS[op](X, BIAS.bfloat16()).dtype == torch.bfloat16
