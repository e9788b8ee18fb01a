import hashlib

import torch

from sparseq.seeds import derive_seed, derived_generator


def test_seeds_are_the_same_on_every_platform():
    digest = hashlib.sha256(b"str:batches/int:3/int:4").digest()
    assert derive_seed("batches", 3, 4) == int.from_bytes(digest[:8], "big") // 2


def test_seeds_differ_with_purpose_type_and_number():
    seeds = [
        derive_seed(*parts) for parts in ((), (0,), ("0",), ("a", 0), ("b", 0), (-1,), (2**80,))
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_generators_are_private():
    before = torch.get_rng_state()
    first, again = (torch.rand(3, generator=derived_generator("x", 1)) for _ in range(2))
    assert torch.equal(first, again)
    assert torch.equal(torch.get_rng_state(), before)
