import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.spmm import dense_matrix, spmm
from tests.ops.cases import (
    BATCHES,
    assert_gradients,
    assert_near,
    assert_refuses,
    assert_same_bits_on_threads,
    assert_takes_any_layout,
    normal,
    ours,
    over_dtypes,
    over_sizes,
    patterns,
)


@over_dtypes
@over_sizes
def test_agrees_with_float64(dtype, size):
    m, k = size
    for pattern in patterns(m, k):
        values = normal(pattern.nnz, dtype=dtype)
        matrix = dense_matrix(values.double(), pattern.tensors)
        row_bias, column_bias = normal(m, dtype=dtype), normal(k, dtype=dtype)
        for batch in BATCHES:
            x, z = normal(batch, k, dtype=dtype), normal(batch, m, dtype=dtype)
            got = spmm(x, values, pattern.tensors, row_bias)
            assert_near(got, x.double() @ matrix.t() + row_bias.double())
            got = spmm(z, values, pattern.tensors, column_bias, transposed=True)
            assert_near(got, z.double() @ matrix + column_bias.double())


def test_empty_rows_give_their_bias():
    pattern = CSRPattern.from_mask(torch.zeros(3, 4, dtype=torch.bool))
    bias = normal(3)
    assert torch.equal(spmm(normal(5, 4), normal(0), pattern.tensors, bias), bias.expand(5, 3))
    assert torch.equal(spmm(normal(5, 4), normal(0), pattern.tensors), torch.zeros(5, 3).double())


@pytest.mark.parametrize("batch", [1, 2, 16, 64, 65, 300])
@pytest.mark.parametrize("transposed", [False, True])
def test_threads_do_not_change_a_bit(batch, transposed):
    pattern = CSRPattern.from_mask(normal(700, 900) > 1.0)
    values = normal(pattern.nnz, dtype=torch.float32)
    x = normal(batch, 700 if transposed else 900, dtype=torch.float32)
    assert_same_bits_on_threads(
        "spmm", lambda: spmm(x, values, pattern.tensors, transposed=transposed)
    )


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_to_second_order(transposed):
    pattern = CSRPattern.from_mask(normal(5, 7) > 0.3)
    sizes = (7, 5) if transposed else (5, 7)

    def run(x, values, bias):
        return spmm(x, values, pattern.tensors, bias, transposed)

    assert_gradients(run, normal(4, sizes[1]), normal(pattern.nnz), normal(sizes[0]))


def test_takes_any_strides_and_leading_dimensions():
    pattern = CSRPattern.from_mask(normal(6, 9) > 0)

    def run(x, values, bias):
        return spmm(x, values, pattern.tensors, bias)

    assert_takes_any_layout(run, normal(2, 3, 9), normal(pattern.nnz), normal(6))


def test_nan_outside_the_pattern_does_not_leak():
    if not ours("spmm"):
        pytest.skip("plain torch serves the op and multiplies by the zeros")
    pattern = CSRPattern.from_mask(torch.tensor([[True, False], [False, True]]))
    x = torch.tensor([[1.0, float("nan")]])
    got = spmm(x, torch.ones(2), pattern.tensors)
    assert got[0, 0] == 1
    assert got[0, 1].isnan()


def test_a_call_does_not_depend_on_the_previous_one():
    pattern = CSRPattern.from_mask(normal(50, 60) > 0.5)
    x, values = normal(17, 60, dtype=torch.float32), normal(pattern.nnz, dtype=torch.float32)
    want = spmm(x, values, pattern.tensors)
    spmm(torch.full_like(x, float("nan")).repeat(4, 1), values, pattern.tensors)
    assert torch.equal(spmm(x, values, pattern.tensors), want)


def test_errors_name_the_argument():
    pattern = CSRPattern.from_mask(torch.ones(3, 4, dtype=torch.bool)).tensors
    good = {"x": normal(2, 4), "values": normal(12), "pattern": pattern}
    assert_refuses(
        spmm,
        good,
        [
            ("x", normal(2, 3), r"spmm: x must have 4 features, got \(2, 3\)"),
            ("values", normal(5), r"spmm: values must have one entry .* 12 .* got \(5,\)"),
            ("bias", normal(4), r"spmm: bias must have shape \(3,\), got \(4,\)"),
        ],
    )
    with pytest.raises(ValueError, match="dtype"):
        spmm(normal(2, 4).float(), normal(12), pattern)
