"""Encoding of the tensors of a state_dict in a model file: patterns as gaps, zeros omitted.

    patterns  of sparse layers: row lengths and gaps instead of row_ptr and col_idx
    zeros     of any other tensor: under its name the nonzero entries, and under `<name>.nonzero`
              the gaps between their positions in row-major order, if this takes fewer bytes than
              the complete tensor

Decoding is exact to the bit: entries of -0.0 are stored like nonzero ones or, if that is shorter,
only as the gaps between their positions, under `<name>.negative`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.files.gap_coding import INT32_MAX, decode_gaps, decode_rows, encode_gaps, encode_rows
from sparseq.formats import BITS, CSRPattern

POSITIONS, NEGATIVE = ".nonzero", ".negative"  # suffixes that no name in a state_dict has
ENTRY_BYTES = 100  # about the size of a tensor's header entry without its name


def encode_patterns(model: nn.Module, stored: dict[str, Tensor]) -> dict[str, int]:
    """Replace patterns in `stored` by their streams; returns path -> number of rows."""
    rows = {}
    for path, module in model.named_modules():
        row_key, column_key = pattern_names(path)
        sparse = isinstance(getattr(module, "pattern", None), CSRPattern)
        if sparse and row_key in stored and column_key in stored:
            pointers = stored[row_key].cpu().numpy()
            columns = stored[column_key].cpu().numpy()
            stored[row_key] = torch.from_numpy(encode_rows(pointers))
            stored[column_key] = torch.from_numpy(encode_gaps(pointers, columns))
            rows[path] = len(pointers) - 1
    return rows


def decode_patterns(rows: Mapping[str, int], stored: dict[str, Tensor]) -> None:
    """The inverse of `encode_patterns`, in place."""
    for path, count in rows.items():
        row_key, column_key = pattern_names(path)
        pointers = decode_rows(stored[row_key].numpy(), count)
        columns = decode_gaps(pointers, stored[column_key].numpy())
        stored[row_key], stored[column_key] = torch.from_numpy(pointers), torch.from_numpy(columns)


def pattern_names(path: str) -> tuple[str, str]:
    """Names of the row pointers and the column ids of a sparse layer."""
    prefix = f"{path}." if path else ""
    return f"{prefix}row_ptr", f"{prefix}col_idx"


def encode_zeros(stored: dict[str, Tensor], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Replace those of the named tensors that get smaller by it by their nonzero entries, in place.

    Args:
        stored: name -> tensor; the streams of positions are added to it.
        names: of the tensors to encode if that makes them smaller.

    Returns:
        Name -> {"shape": ..., "negative": number of -0.0 stored by position, if any} of the tensors
        that were replaced.
    """
    zeros = {}
    for name in names:
        dense = stored[name].cpu().contiguous()
        clashes = stored.keys() & {name + POSITIONS, name + NEGATIVE}
        if clashes or not _may_shrink(dense):
            continue
        parts, negative = _parts(name, dense)
        if sum(map(_cost, parts, parts.values())) - ENTRY_BYTES < dense.nbytes:
            stored.update(parts)
            count = {"negative": negative} if negative else {}
            zeros[name] = {"shape": list(dense.shape), **count}
    return zeros


def decode_zeros(zeros: Mapping[str, Mapping[str, Any]], stored: dict[str, Tensor]) -> None:
    """The inverse of `encode_zeros`, in place."""
    for name, entry in zeros.items():
        values, negative = stored[name], entry.get("negative", 0)
        dense = torch.zeros(entry["shape"], dtype=values.dtype)
        if negative:
            positions = _pop_positions(name + NEGATIVE, negative, dense.numel(), stored)
            _bits(dense)[positions] = _sign_bit(dense)
        positions = _pop_positions(name + POSITIONS, values.numel(), dense.numel(), stored)
        dense.view(-1)[positions] = values
        stored[name] = dense


def _parts(name: str, dense: Tensor) -> tuple[dict[str, Tensor], int]:
    """The tensors stored in place of one, by name, and the number of -0.0 stored by position."""
    bits, sign = _bits(dense), _sign_bit(dense)
    negative = (bits == sign).nonzero().view(-1)
    streams = {name + NEGATIVE: _encode_positions(negative)}
    if _cost(name + NEGATIVE, streams[name + NEGATIVE]) < len(negative) * dense.element_size():
        kept = ((bits != 0) & (bits != sign)).nonzero().view(-1)
    else:
        kept, negative, streams = bits.nonzero().view(-1), negative[:0], {}
    streams[name + POSITIONS] = _encode_positions(kept)
    return {name: dense.view(-1)[kept], **streams}, len(negative)


def _may_shrink(tensor: Tensor) -> bool:
    """Whether encoding may pay off: the zeros must save more than one bit per nonzero entry."""
    if tensor.is_complex() or tensor.numel() > INT32_MAX:
        return False
    nonzero = int((_bits(tensor) << 1).count_nonzero())  # the shift drops the sign of -0.0
    saved = (tensor.numel() - nonzero) * tensor.element_size()
    return 8 * (saved - ENTRY_BYTES) > nonzero


def _cost(name: str, tensor: Tensor) -> int:
    """Bytes of a tensor in the file."""
    return tensor.nbytes + ENTRY_BYTES + 2 * len(name)


def _bits(tensor: Tensor) -> Tensor:
    """The entries of a contiguous tensor as a flat view of integers of the same size."""
    return tensor.view(-1).view(BITS[tensor.element_size()])


def _sign_bit(tensor: Tensor) -> int:
    """The integer that represents -0.0 in `_bits`."""
    return torch.iinfo(BITS[tensor.element_size()]).min


def _encode_positions(positions: Tensor) -> Tensor:
    """Increasing positions, (n), as a stream of gaps."""
    return torch.from_numpy(encode_gaps(np.array([0, len(positions)]), positions.numpy()))


def _pop_positions(name: str, count: int, size: int, stored: dict[str, Tensor]) -> Tensor:
    """Remove a stream from `stored` and decode it: `count` positions below `size`, int64."""
    positions = decode_gaps(np.array([0, count]), stored.pop(name).numpy())
    last = int(positions.max(initial=-1))
    require(last < size, "load", f"positions {name!r}", f"must be below {size}", last)
    return torch.from_numpy(positions).long()
