"""Random numbers that are a function of the arguments alone, never of what ran before.

Seeds are derived from their purpose too: a mask drawn with seed 0 must have nothing in common with
weights drawn with seed 0, as the same stream of random numbers would.
"""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed from the parts, the same on every platform (SHA-256 of their text)."""
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def derived_generator(*parts: int | str) -> torch.Generator:
    """A private CPU generator seeded by `derive_seed(*parts)`."""
    return torch.Generator().manual_seed(derive_seed(*parts))
