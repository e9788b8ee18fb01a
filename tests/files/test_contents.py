"""`describe_file`: every byte of a model file is counted once."""

from __future__ import annotations

import pytest
import torch

from sparseq import models
from sparseq.compression.sparsify import compress
from sparseq.files.contents import describe_file
from sparseq.files.model_file import save


def pruned(model, density):
    generator = torch.Generator().manual_seed(3)
    weights = {name: value for name, value in model.named_parameters() if value.dim() > 1}
    keep = {n: torch.rand(w.shape, generator=generator) < density for n, w in weights.items()}
    return compress(model, keep, "sparse")


@pytest.mark.parametrize("compressed", [False, True])
def test_the_described_bytes_are_those_of_the_file(tmp_path, compressed):
    model = models.build("lenet_300_100", in_shape=(1, 8, 8))
    path = tmp_path / "modèle.sparseq"
    save(pruned(model, 0.1) if compressed else model, path)
    rows = describe_file(path)
    assert sum(row.bytes for row in rows) == path.stat().st_size
    assert [row.name for row in rows[:2]] == ["(header)", "(manifest)"]
    encodings = {row.name: row.encoding for row in rows}
    assert encodings["fc1.bias"] == "without the zeros of 300"
    assert encodings["out.bias"] == "as is"
    if compressed:
        assert encodings["fc1.col_idx"] == "gaps in 4-bit digits"
        assert encodings["fc1.row_ptr"].startswith("row lengths in ")
        columns = next(row for row in rows if row.name == "fc1.col_idx")
        values = next(row for row in rows if row.name == "fc1.values")
        assert columns.bytes < 0.17 * values.bytes


def test_a_sparse_file_is_far_smaller(tmp_path):
    model = models.build("lenet_300_100")
    save(model, tmp_path / "dense")
    save(pruned(model, 0.05), tmp_path / "sparse")
    sizes = [(tmp_path / name).stat().st_size for name in ("dense", "sparse")]
    assert sizes[1] < 0.065 * sizes[0]
