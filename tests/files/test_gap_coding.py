"""Gap coding: exact inverse, documented bytes, near the entropy, strict decoding."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparseq.files.gap_coding import (
    CHUNK,
    decode_gaps,
    decode_rows,
    encode_gaps,
    encode_rows,
    pack_numbers,
    unpack_numbers,
)


def random_csr(rows, columns, density, seed=0):
    mask = np.random.default_rng(seed).random((rows, columns)) < density
    row_ptr = np.concatenate([[0], mask.sum(1).cumsum()]).astype(np.int32)
    return row_ptr, mask.nonzero()[1].astype(np.int32)


SHAPES = [(1, 1), (0, 7), (7, 0), (3, 5), (40, 300), (300, 40), (2, 70000)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0, 0.001, 0.01, 0.1, 0.5, 1])
def test_gaps_survive(shape, density):
    row_ptr, col_idx = random_csr(*shape, density)
    decoded = decode_gaps(row_ptr, encode_gaps(row_ptr, col_idx))
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, col_idx)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("density", [0, 0.1, 1])
def test_row_pointers_survive(shape, density):
    row_ptr, _ = random_csr(*shape, density)
    decoded = decode_rows(encode_rows(row_ptr), shape[0])
    assert decoded.dtype == np.int32
    np.testing.assert_array_equal(decoded, row_ptr)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 2**20), max_size=40))
def test_any_numbers_survive(numbers):
    stream = pack_numbers(np.array(numbers, np.int64))
    assert unpack_numbers(stream, len(numbers)).tolist() == numbers


def test_the_bytes_are_those_of_the_documented_format():
    # rows (2, 3, 9) and (0): gaps 2, 0, 5, 0; digits of 2 bits: 2, 0, 3 2, 0
    row_ptr, col_idx = np.array([0, 3, 3, 4]), np.array([2, 3, 9, 0])
    assert encode_gaps(row_ptr, col_idx).tolist() == [2, 0b10_11_00_10, 0b00]
    # a full matrix takes one bit per entry: all gaps are 0
    assert encode_gaps(np.array([0, 9]), np.arange(9)).tolist() == [1, 0, 0]
    # 8 bits: a number of 255 or more takes an escape
    assert pack_numbers(np.array([250] * 8 + [262])).tolist() == [8, *[250] * 8, 255, 7]


@pytest.mark.parametrize(("density", "bits"), [(0.5, 2.05), (0.1, 5.2), (0.05, 6.4), (0.01, 8.8)])
def test_an_entry_takes_little_more_than_its_entropy(density, bits):
    row_ptr, col_idx = random_csr(500, 1000, density)
    assert 8 * len(encode_gaps(row_ptr, col_idx)) <= bits * len(col_idx)


def test_streams_longer_than_a_chunk():
    numbers = np.random.default_rng(0).integers(0, 40, CHUNK + 1003)
    np.testing.assert_array_equal(unpack_numbers(pack_numbers(numbers), len(numbers)), numbers)


def test_a_single_large_id_takes_few_bytes():
    row_ptr, col_idx = np.array([0, 1]), np.array([2**31 - 1], np.int32)
    assert decode_gaps(row_ptr, encode_gaps(row_ptr, col_idx)).tolist() == [2**31 - 1]
    with pytest.raises(ValueError, match="fit int32"):
        decode_gaps(np.array([0, 2]), pack_numbers(np.array([2**31 - 1, 0])))


@pytest.mark.parametrize("columns", [[3, 3], [3, 1], [-1, 2]])
def test_ids_that_do_not_increase_are_refused(columns):
    with pytest.raises(ValueError, match="increase within each row"):
        encode_gaps(np.array([0, 2]), np.array(columns))


@pytest.mark.parametrize("change", ["empty", "width 0", "width 17", "shorter", "longer", "pad"])
def test_streams_that_do_not_fit_are_refused(change):
    numbers = np.array([1, 5, 2, 9, 30])
    stream = pack_numbers(numbers)
    bad = {
        "empty": stream[:0],
        "width 0": np.concatenate([[0], stream[1:]]),
        "width 17": np.concatenate([[17], stream[1:]]),
        "shorter": stream[:-1],
        "longer": np.append(stream, 0),
        "pad": np.append(stream[:-1], stream[-1] | 0x80),
    }[change].astype(np.uint8)
    with pytest.raises(ValueError, match="decode: stream must"):
        unpack_numbers(bad, len(numbers))
    with pytest.raises(ValueError, match="exactly 4 numbers"):
        unpack_numbers(stream, 4)
