import pytest
import torch
from torch import nn

from sparseq.data import Split


@pytest.fixture
def split():
    """120 points of three well-separated classes."""
    generator = torch.Generator().manual_seed(11)
    y = torch.arange(120) % 3
    x = torch.randn(120, 8, generator=generator)
    x[torch.arange(120), y] += 3
    return Split(x, y)


@pytest.fixture
def make_model():
    """make(dropout) -> a small network with dropout, always with the same weights."""

    def make(dropout=0.3):
        generator = torch.Generator().manual_seed(12)
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(dropout), nn.Linear(16, 3))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.normal_(0, 0.3, generator=generator)
        return model

    return make


@pytest.fixture
def same():
    """same(one, two) -> whether the tensors of two models are bitwise equal."""

    def compare(one, two):
        pairs = zip(one.state_dict().values(), two.state_dict().values(), strict=True)
        return all(torch.equal(a, b) for a, b in pairs)

    return compare
