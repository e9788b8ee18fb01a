"""Compact encoding of sparse patterns: integers as bit-packed digits, column ids as gaps.

Byte format of a stream of non-negative integers n_0, n_1, ... (written by `pack_numbers`):

    byte 0      w, the width of a digit in bits, 1..16
    the rest    digits of w bits, least significant bit first, in bytes filled from the least
                significant bit up; the unused bits of the last byte are 0

With the escape E = 2^w - 1, a number n is encoded as n // E digits equal to E and one digit n % E;
a digit below E therefore ends a number. No count is stored. The width is the one of 1..16 that
makes the stream shortest, the smallest such width on a tie. Width 1 encodes numbers in unary, which
for gaps is a bitmap; width 8 is a byte with an escape.

Gaps (`encode_gaps`): for each row in order, its first column id, then for each further entry its id
minus the previous id minus one. Empty rows write nothing. At densities of 50, 10, 5 and 1 % of
random weights an entry takes about 2.0, 5.1, 6.3 and 8.6 bits; its entropy is 2.0, 4.7, 5.7 and
8.1 bits.

Row lengths (`encode_rows`): the number of entries of each row, in order.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from sparseq.errors import require

Integers = NDArray[np.integer]
Bytes = NDArray[np.uint8]

MAX_WIDTH = 16
CHUNK = 1 << 20  # digits packed at a time; a multiple of 8, so that chunks end on a byte
INT32_MAX = 2**31 - 1


def encode_gaps(row_ptr: Integers, col_idx: Integers) -> Bytes:
    """Column ids of a CSR pattern as a byte stream (format above).

    Args:
        row_ptr: (m + 1) integers, from 0 to nnz.
        col_idx: (nnz) integers, non-negative, strictly increasing within each row.

    Returns:
        (bytes) uint8.

    Raises:
        ValueError: ids that do not increase within a row.
    """
    columns = col_idx.astype(np.int64)
    previous = np.concatenate([np.full(1, -1), columns])[:-1]
    previous[_row_starts(row_ptr)] = -1
    return pack_numbers(columns - previous - 1)


def decode_gaps(row_ptr: Integers, stream: Bytes) -> NDArray[np.int32]:
    """Column ids decoded from their stream: the inverse of `encode_gaps`.

    Args:
        row_ptr: (m + 1) integers, from 0 to nnz.
        stream: (bytes) uint8.

    Returns:
        (nnz) int32.

    Raises:
        ValueError: a stream that does not contain exactly nnz numbers, or ids beyond int32.
    """
    steps = unpack_numbers(stream, int(row_ptr[-1])) + 1
    ends = np.cumsum(steps)
    starts = _row_starts(row_ptr)
    lengths = np.diff(np.append(starts, len(steps)))
    columns = ends - np.repeat(ends[starts] - steps[starts], lengths) - 1
    require(
        columns.max(initial=0) <= INT32_MAX,
        "decode_gaps",
        "stream",
        "must contain ids that fit int32",
        columns.max(initial=0),
    )
    return columns.astype(np.int32)


def _row_starts(row_ptr: Integers) -> Integers:
    """Index of the first entry of every non-empty row."""
    return row_ptr[:-1][np.diff(row_ptr) > 0]


def encode_rows(row_ptr: Integers) -> Bytes:
    """Row pointers of a CSR pattern, (m + 1) integers, as the stream of their differences."""
    ends = row_ptr.astype(np.int64)
    return pack_numbers(ends[1:] - ends[:-1])


def decode_rows(stream: Bytes, rows: int) -> NDArray[np.int32]:
    """Row pointers, (rows + 1) int32, decoded from their stream: the inverse of `encode_rows`."""
    ends = np.cumsum(unpack_numbers(stream, rows))
    require(
        ends.max(initial=0) <= INT32_MAX,
        "decode_rows",
        "stream",
        "must contain pointers that fit int32",
        ends.max(initial=0),
    )
    return np.concatenate([np.zeros(1, np.int64), ends]).astype(np.int32)


def pack_numbers(numbers: Integers) -> Bytes:
    """Non-negative integers, (n), as the shortest stream (format above)."""
    low = numbers.min(initial=0)
    rule = "must not be negative (do the ids increase within each row?)"
    require(low >= 0, "encode", "numbers", rule, low)
    sizes = [width * _digit_count(numbers, width) for width in range(1, MAX_WIDTH + 1)]
    width = 1 + int(np.argmin(sizes))
    return np.concatenate([np.array([width], np.uint8), *_pack(_digits(numbers, width), width)])


def unpack_numbers(stream: Bytes, count: int) -> NDArray[np.int64]:
    """The `count` numbers of a stream, int64; ValueError unless it contains exactly that many."""
    width = int(stream[0]) if len(stream) else 0
    require(
        1 <= width <= MAX_WIDTH,
        "decode",
        "stream",
        f"must begin with a width of 1..{MAX_WIDTH}",
        width,
    )
    digits = np.concatenate([np.zeros(0, np.uint16), *_unpack(stream[1:], width)])
    ends = np.flatnonzero(digits != 2**width - 1)[:count]
    used = int(ends[-1]) + 1 if count and len(ends) else 0
    exact = len(ends) == count and len(stream) == 1 + _byte_count(used * width)
    require(
        exact and not _has_padding_bits(stream, used * width),
        "decode",
        "stream",
        f"must contain exactly {count} numbers",
        f"{len(stream)} bytes that do not",
    )
    sums = np.cumsum(digits[:used], dtype=np.int64)[ends]
    return np.diff(sums, prepend=0)


def _digit_count(numbers: Integers, width: int) -> int:
    return len(numbers) + int((numbers // (2**width - 1)).sum())


def _digits(numbers: Integers, width: int) -> NDArray[np.uint16]:
    """Each number as its escapes and its final digit."""
    escape = 2**width - 1
    ends = np.cumsum(numbers // escape + 1) - 1
    digits = np.full(int(ends[-1]) + 1 if len(ends) else 0, escape, np.uint16)
    digits[ends] = numbers % escape
    return digits


def _pack(digits: NDArray[np.uint16], width: int) -> Iterator[Bytes]:
    """Bytes of the digits, chunk by chunk."""
    shifts = np.arange(width, dtype=np.uint16)
    for start in range(0, len(digits), CHUNK):
        bits = (digits[start : start + CHUNK, None] >> shifts) & 1
        yield np.packbits(bits.astype(np.uint8).ravel(), bitorder="little")


def _unpack(packed: Bytes, width: int) -> Iterator[NDArray[np.uint16]]:
    """Digits, chunk by chunk; trailing bits that do not fill a digit are ignored."""
    bit_values = (1 << np.arange(width)).astype(np.uint16)
    step = CHUNK // 8 * width
    for start in range(0, len(packed), step):
        bits = np.unpackbits(packed[start : start + step], bitorder="little")
        yield bits[: len(bits) // width * width].reshape(-1, width) @ bit_values


def _has_padding_bits(stream: Bytes, bits: int) -> bool:
    """Whether a bit is set in the last byte beyond the first `bits` bits after the width."""
    return bits % 8 > 0 and int(stream[-1]) >> (bits % 8) > 0


def _byte_count(bits: int) -> int:
    return (bits + 7) // 8
