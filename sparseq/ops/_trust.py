"""Which tensors hold a checked pattern that nothing outside can edit.

An op copies and checks the pattern of a call, which costs as much as a product with a few examples,
unless its five tensors are trusted: those that only a `sparseq.formats.CSRPattern` holds. What is
trusted is known here, and in the compiled library (csrc/cpu/tensors/trusted.h), by address. An
entry ends before any of its tensors does, so that no other one ever has its address.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor

Entry = tuple[int, ...]

_entries: dict[int, Entry] = {}
_libraries: list[ctypes.CDLL] = []
_lock = threading.RLock()  # a finalizer may run while it is held


def trust(tensors: Sequence[Tensor], *numbers: int, beside: Sequence[Tensor] = ()) -> None:
    """Trust tensors whose contents are checked, as long as all of them are alive.

    Args:
        tensors: contiguous int32 tensors with data, the first one not empty, which nothing outside
            of this package gets to see.
        numbers: what else was checked together with them.
        beside: tensors whose addresses are among the numbers.
    """
    entry = _entry(tensors, numbers)
    with _lock:
        _entries[entry[0]] = entry
        for library in _libraries:
            _tell(library, entry)
    for tensor in (*tensors, *beside):
        weakref.finalize(tensor, _forget, entry).atexit = False


def is_trusted(tensors: Sequence[Tensor], *numbers: int) -> bool:
    """Whether exactly these tensors and numbers are trusted."""
    entry = _entry(tensors, numbers)
    return _entries.get(entry[0]) == entry


def inform(path: Path) -> None:
    """Tell a compiled library, which is loaded, what is trusted, now and from now on."""
    library = ctypes.CDLL(str(path))
    library.sparseq_trust.argtypes = [ctypes.POINTER(ctypes.c_int64), ctypes.c_int64]
    library.sparseq_forget.argtypes = [ctypes.c_int64]
    library.sparseq_trust.restype = library.sparseq_forget.restype = None
    with _lock:
        _libraries.append(library)
        for entry in list(_entries.values()):
            _tell(library, entry)


def _entry(tensors: Sequence[Tensor], numbers: Sequence[int]) -> Entry:
    addresses = (tensor.data_ptr() for tensor in tensors)
    return *addresses, *(tensor.numel() for tensor in tensors), *numbers


def _tell(library: ctypes.CDLL, entry: Entry) -> None:
    library.sparseq_trust((ctypes.c_int64 * len(entry))(*entry), len(entry))


def _forget(entry: Entry) -> None:
    with _lock:
        if _entries.get(entry[0]) is entry:
            del _entries[entry[0]]
            for library in _libraries:
                library.sparseq_forget(entry[0])
