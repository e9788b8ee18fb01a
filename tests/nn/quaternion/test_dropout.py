"""QDropout: quaternions are dropped as a whole, with probability p, from 0 to 1."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch

from sparseq.nn import QDropout


def test_drops_whole_quaternions_and_scales_the_rest():
    x = torch.randn(50, 8, 10, 7)
    parts = QDropout(0.3)(x).unflatten(1, (4, -1))
    dropped = parts == 0
    assert torch.equal(dropped, dropped[:, :1].expand_as(dropped))
    assert dropped[:, 0].float().mean().item() == pytest.approx(0.3, abs=0.03)
    kept = x.unflatten(1, (4, -1))[~dropped] / 0.7
    torch.testing.assert_close(parts[~dropped], kept)


@pytest.mark.parametrize("inplace", [False, True])
def test_the_ends_of_p(inplace):
    x = torch.randn(3, 4)
    assert torch.equal(QDropout(0.0, inplace)(x.clone()), x)
    assert torch.equal(QDropout(1.0, inplace)(x.clone()), torch.zeros(3, 4))


def test_evaluation_is_the_identity():
    x = torch.randn(3, 8, 2)
    assert QDropout(0.9).eval()(x) is x


def test_in_place():
    x = torch.randn(4, 8, 3, 3)
    before = x.clone()
    y = QDropout(0.5, inplace=True)(x)
    assert y is x
    kept = x != 0
    torch.testing.assert_close(x[kept], 2 * before[kept])
    strided = torch.randn(4, 3, 8).mT
    assert QDropout(1.0, inplace=True)(strided).abs().sum() == 0


def test_gradients_are_dropped_with_their_features():
    x = torch.randn(5, 8, 3, requires_grad=True)
    y = QDropout(0.5)(x)
    y.sum().backward()
    assert torch.equal(x.grad, (y != 0) * 2.0)
    assert QDropout()(torch.randn(0, 4, 1, 1)).shape == (0, 4, 1, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_keeps_the_dtype(dtype):
    assert QDropout()(torch.ones(2, 4, dtype=dtype)).dtype == dtype


def test_copies_compilation_and_export():
    layer, x = QDropout(0.25), torch.ones(64, 8, 3)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        torch.manual_seed(1)
        want = layer(x)
        torch.manual_seed(1)
        assert torch.equal(twin(x), want)
    torch.compiler.reset()
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert sorted(y.unique().tolist()) == pytest.approx([0, 1 / 0.75])
    program = torch.export.export(layer.eval(), (x,))
    assert torch.equal(program.module()(x), x)


def test_errors():
    for p in (-0.1, 1.5):
        with pytest.raises(ValueError, match=r"QDropout: p must be in \[0, 1\]"):
            QDropout(p)
    with pytest.raises(ValueError, match="QDropout: x must be features"):
        QDropout()(torch.zeros(2, 6))
