"""QMaxPool2d against its definition, VectorMaxPool2d against torch's."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from sparseq.nn import QMaxPool2d, VectorMaxPool2d, to_dense
from tests.ops.cases import normal

OPTIONS = [
    {"kernel_size": 2},
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": (2, 3), "stride": (1, 2), "dilation": (2, 1)},
    {"kernel_size": 2, "stride": 3, "ceil_mode": True},
    {"kernel_size": 1},
]
over_options = pytest.mark.parametrize("options", OPTIONS, ids=str)


def by_definition(x, options):
    """Every window separately: the position from nn.MaxPool2d of the norms, then indexing."""
    n, channels, _, width = x.shape
    norms = x.unflatten(1, (4, -1)).norm(dim=1)
    pooled, positions = nn.MaxPool2d(**options, return_indices=True)(norms)
    y = x.new_empty(n, channels, *pooled.shape[2:])
    for index in torch.cartesian_prod(*[torch.arange(size) for size in pooled.shape]).tolist():
        example, c, i, j = index
        at = int(positions[example, c, i, j])
        y[example, c :: channels // 4, i, j] = x[
            example, c :: channels // 4, at // width, at % width
        ]
    return y


@over_options
def test_keeps_the_quaternion_of_largest_norm(options):
    x = normal(3, 12, 7, 5)
    y = QMaxPool2d(**options)(x)
    assert torch.equal(y, by_definition(x, options))
    want = nn.MaxPool2d(**options)(x.unflatten(1, (4, -1)).norm(dim=1))
    torch.testing.assert_close(y.unflatten(1, (4, -1)).norm(dim=1), want)


@over_options
def test_gradients_to_second_order(options):
    x = normal(2, 8, 5, 5).requires_grad_()
    layer = QMaxPool2d(**options)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradgradcheck(lambda x: layer(x).square(), (x,))


def test_the_first_of_equal_norms_is_selected():
    x = torch.zeros(1, 4, 2, 4)
    x[0, 1, 0, 1], x[0, 0, 1, 0], x[0, 3, 1, 1] = 2.0, -2.0, 2.0
    y = QMaxPool2d(2)(x)
    assert y[0, :, 0, 0].tolist() == [0, 2, 0, 0]
    assert y[0, :, 0, 1].tolist() == [0, 0, 0, 0]


def test_batches_of_one_and_single_pixels_and_none():
    x = torch.randn(1, 4, 1, 1)
    assert torch.equal(QMaxPool2d(1)(x), x)
    assert torch.equal(QMaxPool2d(3, padding=1)(x), x)
    assert torch.equal(QMaxPool2d(2)(x.expand(1, 4, 2, 2))[0], QMaxPool2d(2)(x[0].expand(4, 2, 2)))
    assert QMaxPool2d(2)(torch.randn(0, 8, 4, 4)).shape == (0, 8, 2, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_16_bit_values_whose_squares_overflow(dtype):
    x = torch.zeros(1, 4, 1, 2, dtype=dtype)
    x[0, 0, 0, 0], x[0, 2, 0, 1] = 1000, -2000
    y = QMaxPool2d((1, 2))(x)
    assert y.dtype == dtype
    assert y.flatten().tolist() == [0, 0, x[0, 2, 0, 1].item(), 0]


def test_nan_counts_as_the_largest():
    x = torch.ones(1, 4, 2, 2)
    x[0, 2, 1, 0] = float("nan")
    assert QMaxPool2d(2)(x).isnan().flatten().tolist() == [False, False, True, False]


def test_copies_compilation_and_export():
    layer, x = QMaxPool2d(3, 2, 1), torch.randn(3, 8, 7, 5)
    want = layer(x)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(twin(x), want)
    torch.compiler.reset()
    leaf = x.clone().requires_grad_()
    y = torch.compile(layer, fullgraph=True, backend="aot_eager")(leaf)
    assert torch.equal(y, want)
    y.sum().backward()
    assert leaf.grad.sum() == want.numel()
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), want)
    assert layer.state_dict() == {}


def test_real_maps_are_pooled_as_by_torch():
    x = torch.randn(2, 1, 6, 6).abs()
    padded = torch.cat([x, *[torch.zeros_like(x)] * 3], 1)
    assert torch.equal(QMaxPool2d(2)(padded)[:, :1], F.max_pool2d(x, 2))


def test_errors():
    for shape in [(2, 6, 4, 4), (4, 4), (1, 2, 4, 4, 4)]:
        with pytest.raises(ValueError, match=r"QMaxPool2d: x must have shape \(N, 4 C, H, W\)"):
            QMaxPool2d(2)(torch.zeros(shape))


@over_options
@pytest.mark.parametrize("shape", [(2, 3, 8, 6), (3, 5, 7), (0, 2, 4, 4)])
def test_vector_pooling_is_torchs(options, shape):
    ours, plain = VectorMaxPool2d(**options), nn.MaxPool2d(**options)
    for memory_format in (torch.contiguous_format, torch.channels_last):
        x = normal(*shape)
        x = (x if x.dim() == 3 else x.contiguous(memory_format=memory_format)).requires_grad_()
        y, want = ours(x), plain(x)
        assert torch.equal(y, want)
        assert y.stride() == want.stride()
        got = torch.autograd.grad(y.sum(), x)[0]
        assert torch.equal(got, torch.autograd.grad(want.sum(), x)[0])


def test_vector_pooling_of_other_windows_is_done_by_torch():
    x = normal(1, 2, 5, 7)
    positions = VectorMaxPool2d(2, return_indices=True)(x)[1]
    assert torch.equal(positions, nn.MaxPool2d(2, return_indices=True)(x)[1])
    assert VectorMaxPool2d(2, ceil_mode=True)(x).shape == (1, 2, 3, 4)
    assert VectorMaxPool2d((2, 2), [2, 2])(x).shape == (1, 2, 2, 3)
    with pytest.raises(RuntimeError, match="too small"):
        VectorMaxPool2d(2)(x[..., :1])


def test_vector_pooling_has_a_twin():
    layer = VectorMaxPool2d(2, ceil_mode=True)
    twin = to_dense(nn.Sequential(layer))[0]
    assert type(twin) is nn.MaxPool2d
    assert repr(twin).partition("(")[2] == repr(layer).partition("(")[2]
    x = normal(2, 3, 8, 8)
    for copied in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(copied(x), layer(x))
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), layer(x))
    assert torch.equal(torch.export.export(layer, (x,)).module()(x), layer(x))
