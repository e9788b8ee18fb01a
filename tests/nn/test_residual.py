import copy

import torch
from torch import nn

import sparseq
from sparseq.nn.residual import Residual


def test_is_the_formula_and_survives_copies_and_files(tmp_path):
    block = Residual(nn.Sequential(nn.Linear(5, 4), nn.Tanh()), nn.Linear(5, 4, bias=False))
    x = torch.randn(3, 5)
    want = torch.relu(block.main(x) + block.shortcut(x))
    sparseq.save(block, tmp_path / "b.sparseq")
    for twin in (block, copy.deepcopy(block), sparseq.load(tmp_path / "b.sparseq")):
        assert torch.equal(twin(x), want)
