import pytest
import torch

from sparseq.formats import CSRPattern
from tests.ops.cases import SIZES, normal, patterns


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_mask_and_back(size):
    for pattern in patterns(*size):
        mask = pattern.mask()
        assert mask.shape == pattern.shape == size
        assert pattern.nnz == int(mask.sum())
        again = CSRPattern.from_mask(mask)
        for one, two in zip(pattern.tensors, again.tensors, strict=True):
            assert one.dtype == torch.int32
            assert torch.equal(one, two)


def test_transpose_is_that_of_the_mask():
    pattern = CSRPattern.from_mask(normal(9, 13) > 0.4)
    flipped = CSRPattern.from_mask(pattern.mask().t().contiguous())
    assert torch.equal(pattern.row_ptr_t, flipped.row_ptr)
    assert torch.equal(pattern.col_idx_t, flipped.col_idx)
    matrix = normal(9, 13)
    assert torch.equal(pattern.gather(matrix)[pattern.perm.long()], flipped.gather(matrix.t()))


def test_takes_long_indices_and_strides():
    row_ptr, col_idx = torch.tensor([0, 2, 3]), torch.tensor([[0, 9], [2, 9], [1, 9]])[:, 0]
    pattern = CSRPattern.from_csr(row_ptr, col_idx, 3)
    assert pattern.mask().tolist() == [[True, False, True], [False, True, False]]
    assert all(tensor.is_contiguous() for tensor in pattern.tensors)


def test_sizes_without_data():
    meta = CSRPattern.from_csr(
        torch.empty(4, dtype=torch.int32, device="meta"),
        torch.empty(7, dtype=torch.int32, device="meta"),
        5,
    )
    assert meta.shape == (3, 5)
    assert meta.nnz == 7


@pytest.mark.parametrize(
    ("row_ptr", "col_idx", "message"),
    [
        ([0, 1], [5], r"CSRPattern: col_idx must lie in 0..2, got 5..5"),
        ([0, 1], [-1], r"CSRPattern: col_idx must lie in 0..2, got -1..-1"),
        ([0, 2], [1, 1], r"CSRPattern: col_idx must increase strictly within each row"),
        ([0, 2], [2, 0], r"CSRPattern: col_idx must increase strictly within each row"),
        ([0, 2, 1], [0], r"CSRPattern: row_ptr must not decrease"),
        ([1, 1], [0], r"CSRPattern: row_ptr must go from 0 to 1, got \(1, 1\)"),
        ([0, 3], [0], r"CSRPattern: row_ptr must go from 0 to 1, got \(0, 3\)"),
        ([], [], r"CSRPattern: row_ptr must have one entry more than there are rows, got none"),
        ([0.0, 1.0], [0], r"CSRPattern: row_ptr must be a vector of integers, got torch.float32"),
        ([[0, 1]], [0], r"CSRPattern: row_ptr must be a vector of integers, got .* \(1, 2\)"),
    ],
)
def test_names_what_is_wrong(row_ptr, col_idx, message):
    row_ptr = torch.tensor(row_ptr) if row_ptr else torch.tensor([], dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        CSRPattern.from_csr(row_ptr, torch.tensor(col_idx, dtype=torch.int64), 3)


def test_refuses_other_masks():
    with pytest.raises(ValueError, match=r"from_mask: mask must be a bool matrix, got torch.float"):
        CSRPattern.from_mask(torch.ones(2, 2))
    with pytest.raises(ValueError, match=r"mask must be a bool matrix, got torch.bool \(4,\)"):
        CSRPattern.from_mask(torch.ones(4, dtype=torch.bool))
