"""How the tensors of a state_dict lie in a model file: what is known or zero is not written.

    patterns  of sparse layers: row lengths and gaps in place of row_ptr and col_idx
    zeros     of any other tensor: under its name the entries that are not 0, and under
              `<name>.nonzero` the gaps between their positions in row-major order, wherever
              this takes fewer bytes than the whole tensor

What comes back has the bits that were there: entries of -0.0 are stored like the others or, where
that is shorter, as the gaps between their positions alone, under `<name>.negative`.
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

PLACES, NEGATIVE = ".nonzero", ".negative"  # a state_dict has no names below a tensor's
ENTRY_BYTES = 100  # of the header for a tensor, names aside


def encode_patterns(model: nn.Module, stored: dict[str, Tensor]) -> dict[str, int]:
    """Replace patterns in `stored` by their streams; returns their numbers of rows by path."""
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
    """Names of the pointers and the column ids of a sparse layer."""
    prefix = f"{path}." if path else ""
    return f"{prefix}row_ptr", f"{prefix}col_idx"


def encode_zeros(stored: dict[str, Tensor], names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Store those of the named tensors without their zeros that get smaller by it, in place.

    Args:
        stored: name -> tensor; also takes the positions.
        names: of the tensors to try.

    Returns:
        Name -> {"shape": ..., "negative": number of -0.0 stored by position, if any} of those that
        now hold only what is not 0.
    """
    zeros = {}
    for name in names:
        whole = stored[name].cpu().contiguous()
        taken = stored.keys() & {name + PLACES, name + NEGATIVE}
        if taken or not _may_shrink(whole):
            continue
        parts, negative = _parts(name, whole)
        if sum(map(_cost, parts, parts.values())) - ENTRY_BYTES < whole.nbytes:
            stored.update(parts)
            count = {"negative": negative} if negative else {}
            zeros[name] = {"shape": list(whole.shape), **count}
    return zeros


def decode_zeros(zeros: Mapping[str, Mapping[str, Any]], stored: dict[str, Tensor]) -> None:
    """The inverse of `encode_zeros`, in place."""
    for name, entry in zeros.items():
        values, negative = stored[name], entry.get("negative", 0)
        whole = torch.zeros(entry["shape"], dtype=values.dtype)
        if negative:
            places = _decode_places(name + NEGATIVE, negative, whole.numel(), stored)
            _bits(whole)[places] = _top_bit(whole)
        places = _decode_places(name + PLACES, values.numel(), whole.numel(), stored)
        whole.view(-1)[places] = values
        stored[name] = whole


def _parts(name: str, whole: Tensor) -> tuple[dict[str, Tensor], int]:
    """What is stored of a tensor, by name, and how many entries of -0.0 are among its positions."""
    bits, top = _bits(whole), _top_bit(whole)
    negative = (bits == top).nonzero().view(-1)
    streams = {name + NEGATIVE: _encode_places(negative)}
    if _cost(name + NEGATIVE, streams[name + NEGATIVE]) < len(negative) * whole.element_size():
        kept = ((bits != 0) & (bits != top)).nonzero().view(-1)
    else:
        kept, negative, streams = bits.nonzero().view(-1), negative[:0], {}
    streams[name + PLACES] = _encode_places(kept)
    return {name: whole.view(-1)[kept], **streams}, len(negative)


def _may_shrink(tensor: Tensor) -> bool:
    """Whether to look closer: enough zeros to pay for a bit of each other entry."""
    if tensor.is_complex() or tensor.numel() > INT32_MAX:
        return False
    bits = _bits(tensor)
    left = int((bits << 1).count_nonzero())  # without the top bit, which is the sign
    saved = (tensor.numel() - left) * tensor.element_size()
    return 8 * (saved - ENTRY_BYTES) > left


def _cost(name: str, part: Tensor) -> int:
    """Bytes of a tensor in the file."""
    return part.nbytes + ENTRY_BYTES + 2 * len(name)


def _bits(tensor: Tensor) -> Tensor:
    """The entries of a contiguous tensor as integers, in a row, on the same memory."""
    return tensor.view(-1).view(BITS[tensor.element_size()])


def _top_bit(tensor: Tensor) -> int:
    """-0.0 among `_bits`."""
    return torch.iinfo(BITS[tensor.element_size()]).min


def _encode_places(places: Tensor) -> Tensor:
    """Rising positions, (n), as a stream of gaps."""
    return torch.from_numpy(encode_gaps(np.array([0, len(places)]), places.numpy()))


def _decode_places(name: str, count: int, size: int, stored: dict[str, Tensor]) -> Tensor:
    """Take `count` positions below `size` out of `stored`."""
    places = decode_gaps(np.array([0, count]), stored.pop(name).numpy())
    last = int(places.max(initial=-1))
    require(last < size, "load", f"positions {name!r}", f"must lie within {size} entries", last)
    return torch.from_numpy(places).long()
