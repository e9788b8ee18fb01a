import pytest
import torch

from sparseq.formats import CSRPattern
from sparseq.ops.block_mm import block_mm, matrix_of_blocks
from tests.ops.cases import (
    BATCHES,
    assert_gradients,
    assert_near,
    assert_refuses,
    assert_same_bits_on_threads,
    assert_takes_any_layout,
    normal,
    over_dtypes,
    patterns,
)

dv_op = torch.ops.sparseq.block_mm_dv.default
BLOCKS = ((1, 1), (2, 3), (8, 1), (1, 9), (16, 16), (13, 20))
over_blocks = pytest.mark.parametrize("block", BLOCKS, ids=lambda block: f"{block[0]}x{block[1]}")


def kept_blocks(gradient, pattern, rows, columns):
    """The blocks of an (m, k) gradient at the entries of the grid."""
    grid = gradient.unflatten(0, (-1, rows)).unflatten(2, (-1, columns)).transpose(1, 2)
    return grid[pattern.rows(), pattern.col_idx.long()]


@over_blocks
@over_dtypes
def test_agrees_with_float64(dtype, block):
    r, c = block
    for pattern in patterns(3, 5):
        values = normal(pattern.nnz, r, c, dtype=dtype)
        matrix = matrix_of_blocks(values.double(), pattern.tensors)
        row_bias, column_bias = normal(3 * r, dtype=dtype), normal(5 * c, dtype=dtype)
        for batch in BATCHES:
            x, dy = normal(batch, 5 * c, dtype=dtype), normal(batch, 3 * r, dtype=dtype, seed=2)
            got = block_mm(x, values, pattern.tensors, row_bias)
            assert_near(got, x.double() @ matrix.t() + row_bias.double())
            got = block_mm(dy, values, pattern.tensors, column_bias, transposed=True)
            assert_near(got, dy.double() @ matrix + column_bias.double())
            exact = kept_blocks(dy.double().t() @ x.double(), pattern, r, c)
            assert_near(dv_op(dy, x, pattern.tensors, r, c), exact)


def test_blocks_are_at_the_positions_of_the_grid():
    grid = CSRPattern.from_mask(torch.tensor([[False, True], [True, False]]))
    values = torch.tensor([[[1.0, 2.0]], [[3.0, 4.0]]])
    want = torch.tensor([[0.0, 0, 1, 2], [3, 4, 0, 0]])
    assert torch.equal(matrix_of_blocks(values, grid.tensors), want)
    assert torch.equal(block_mm(torch.eye(4), values, grid.tensors), want.t())


@pytest.mark.parametrize("batch", [1, 16, 65, 300])
@pytest.mark.parametrize("block", [(16, 16), (8, 1)], ids=str)
def test_threads_do_not_change_a_bit(batch, block):
    r, c = block
    pattern = CSRPattern.from_mask(normal(640 // r, 800 // c) > 1.0)
    values, ids = normal(pattern.nnz, r, c, dtype=torch.float32), pattern.tensors
    x, dy = normal(batch, 800, dtype=torch.float32), normal(batch, 640, dtype=torch.float32)
    assert_same_bits_on_threads("block_mm", lambda: block_mm(x, values, ids))
    assert_same_bits_on_threads("block_mm", lambda: block_mm(dy, values, ids, transposed=True))
    assert_same_bits_on_threads("block_mm_dv", lambda: dv_op(dy, x, ids, r, c))


@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_to_second_order(transposed):
    pattern = CSRPattern.from_mask(normal(3, 2) > -0.5)
    sizes = (8, 6) if transposed else (6, 8)

    def run(x, values, bias):
        return block_mm(x, values, pattern.tensors, bias, transposed)

    assert_gradients(run, normal(4, sizes[1]), normal(pattern.nnz, 2, 4), normal(sizes[0]))


def test_takes_any_strides_and_leading_dimensions():
    pattern = CSRPattern.from_mask(normal(3, 5) > 0)

    def run(x, values, bias):
        return block_mm(x, values, pattern.tensors, bias)

    assert_takes_any_layout(run, normal(2, 3, 20), normal(pattern.nnz, 2, 4), normal(6))


def test_errors_name_the_argument():
    grid = CSRPattern.from_mask(torch.ones(2, 3, dtype=torch.bool)).tensors
    good = {"x": normal(2, 12), "values": normal(6, 2, 4), "pattern": grid}
    assert_refuses(
        block_mm,
        good,
        [
            ("x", normal(2, 8), r"block_mm: x must have 12 features, got \(2, 8\)"),
            ("values", normal(5, 2, 4), r"block_mm: values must have shape \(6, r, c\), got"),
            ("bias", normal(12), r"block_mm: bias must have shape \(4,\), got \(12,\)"),
        ],
    )
