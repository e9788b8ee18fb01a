"""Random numbers that depend on the arguments alone, never on what ran before.

The purpose is a part of each seed: a mask and weights drawn with seed 0 must not share one stream
of random numbers, or they would be correlated.
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
