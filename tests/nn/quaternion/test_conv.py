from __future__ import annotations

import copy
import logging
import pickle

import pytest
import torch
from torch import nn

from sparseq import Mask, prune
from sparseq.nn import (
    QConv1d,
    QConv2d,
    QConv3d,
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
    QLinear,
    swap,
    to_dense,
)
from sparseq.nn.quaternion.init import INITS
from tests.nn.full_graph import assert_compiles_in_one_graph, assert_exports_with_any_batch

KINDS = (QConv1d, QConv2d, QConv3d, QConvTranspose1d, QConvTranspose2d, QConvTranspose3d)
over_kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
# none of the arguments is the default
SETTINGS = {"kernel_size": 3, "stride": 2, "padding": 1, "dilation": 2, "groups": 2}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def image(dims: int, channels: int = 16, batch: int = 3, size: int = 7) -> torch.Tensor:
    return torch.randn(batch, channels, *[size] * dims, generator=seeded(7))


def drawn(kind, *args, **options):
    """A layer with a random bias."""
    layer = kind(*args, **options, generator=seeded())
    if layer.bias is not None:
        nn.init.normal_(layer.bias, generator=seeded(1))
    return layer


def small(kind):
    """A small layer, which compiles quickly."""
    return drawn(kind, 8, 4, 3, padding=1)


@over_kinds
def test_computes_what_torchs_layer_with_the_real_weight_does(kind):
    for settings in (SETTINGS, {"kernel_size": 2}, {"kernel_size": 1, "bias": False}):
        layer = drawn(kind, 16, 8, **settings)
        dense = layer.to_dense()
        assert type(dense) is kind.real
        x = image(kind.dims)
        torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(layer(x[0]), dense(x[0]), rtol=1e-4, atol=1e-5)


@over_kinds
def test_gradients_are_those_of_the_real_layer(kind):
    layer = drawn(kind, 16, 8, **SETTINGS, dtype=torch.float64)
    x = image(kind.dims).double().requires_grad_()
    y, dense = layer(x), layer.to_dense()
    dy = torch.randn(y.shape, generator=seeded(3), dtype=torch.float64)
    (ours,) = torch.autograd.grad(y, x, dy, retain_graph=True)
    torch.testing.assert_close(ours, torch.autograd.grad(dense(x), x, dy)[0])
    bias, weight = torch.autograd.grad(y, [layer.bias, layer.weight], dy)
    torch.testing.assert_close(bias, torch.autograd.grad(dense(x), dense.bias, dy)[0])
    step = torch.randn(weight.shape, generator=seeded(4), dtype=torch.float64)
    moved = copy.deepcopy(layer)
    moved.weight.data += step  # the map is linear in its weight
    change = ((moved(x) - layer(x)) * dy).sum()
    torch.testing.assert_close((weight * step).sum(), change)


@pytest.mark.parametrize("mode", ["zeros", "reflect", "replicate", "circular"])
@pytest.mark.parametrize("padding", [2, "same", "valid"])
def test_all_paddings(mode, padding):
    for kind, kernel in ((QConv1d, 4), (QConv2d, (2, 3)), (QConv3d, 3)):
        layer = drawn(kind, 8, 4, kernel, padding=padding, dilation=2, padding_mode=mode)
        dense, x = layer.to_dense(), image(kind.dims, 8)
        torch.testing.assert_close(layer(x), dense(x), rtol=1e-4, atol=1e-5)


def test_output_sizes():
    layer = drawn(QConvTranspose2d, 8, 4, 3, stride=3, padding=1)
    x = image(2, 8)
    for size in ((19, 20), (21, 19)):
        y = layer(x, output_size=size)
        torch.testing.assert_close(y, layer.to_dense()(x, output_size=size), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="output_padding must be below"):
        layer(x, output_size=(30, 19))
    with pytest.raises(ValueError, match="QConvTranspose2d: output_size must have 2"):
        layer(x, output_size=(19,))


def test_parameters_are_a_quarter_and_the_bias_starts_at_zero():
    layer = QConv2d(12, 8, (3, 2))
    assert layer.weight.shape == (4, 2, 3, 3, 2)
    assert torch.equal(layer.bias, torch.zeros(8))
    assert QConv2d(12, 8, 3, groups=1, bias=False).bias is None
    assert QConvTranspose2d(16, 8, 3, groups=2).weight.shape == (4, 4, 1, 3, 3)


@pytest.mark.parametrize(("init", "gain"), [("he", 2), ("glorot", 1), ("htorch", 0.5)])
def test_output_variance_is_4_s2_fan_in(init, gain):
    layer = QConv2d(128, 128, 3, init=init, generator=seeded())
    y = layer(torch.randn(64, 128, 5, 5, generator=seeded(1))).detach()
    per_component = y.unflatten(1, (4, -1)).transpose(0, 1).flatten(1).var(dim=1)
    torch.testing.assert_close(per_component, torch.full((4,), float(gain)), rtol=0.1, atol=0)


@pytest.mark.parametrize("init", INITS)
@pytest.mark.parametrize("groups", [1, 4])
def test_fans_are_quaternions_times_the_kernels_area(init, groups):
    fan_in, fan_out = 16 // groups * 9, 32 // groups * 9
    s2 = {"he": 2 * fan_in, "glorot": 2 * (fan_in + fan_out), "htorch": 8 * fan_in}[init]
    for kind, channels in ((QConv2d, (64, 128)), (QConvTranspose2d, (64, 128))):
        layer = kind(*channels, 3, groups=groups, init=init, generator=seeded())
        want = torch.tensor([2.0, 2 / 3, 2 / 3, 2 / 3]) / s2
        got = layer.weight.detach().flatten(1).var(dim=1)
        torch.testing.assert_close(got, want, rtol=0.15, atol=0)


@pytest.mark.parametrize("name", ["in_channels", "out_channels"])
@pytest.mark.parametrize("size", [10, 1, -4])
@over_kinds
def test_sizes_not_divisible_by_four(kind, name, size):
    sizes = {"in_channels": 8, "out_channels": 8, name: size}
    with pytest.raises(ValueError, match=rf"{name} must be divisible by 4.*got {size}"):
        kind(**sizes, kernel_size=3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"groups": 3}, r"QConv2d: groups must divide the 2 and 4 quaternion channels, got 3"),
        ({"groups": 0}, "groups must divide"),
        ({"stride": 0}, "QConv2d: stride must be one integer or 2, at least 1, got 0"),
        ({"padding": -1}, "padding must be one integer or 2, at least 0"),
        ({"kernel_size": (3, 3, 3)}, "kernel_size must be one integer or 2"),
        ({"dilation": 1.5}, "dilation must be one integer or 2"),
        ({"padding": "same", "stride": 2}, "padding must be integers if a stride is above 1"),
        ({"padding": "full"}, "unknown QConv2d padding 'full'; choose one of: valid, same"),
        ({"padding_mode": "wrap"}, "QConv2d padding_mode 'wrap'.*zeros, reflect"),
        ({"init": "xavier"}, r"QConv2d init 'xavier'.*he, glorot, htorch"),
        ({"algorithm": "9"}, r"QConv2d algorithm '9'.*auto, 8, 16"),
    ],
)
def test_invalid_arguments_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        QConv2d(8, 16, **{"kernel_size": 3, **options})


def test_transposed_layers_pad_with_zeros_only():
    with pytest.raises(ValueError, match="QConvTranspose1d: padding_mode must be 'zeros'"):
        QConvTranspose1d(4, 4, 3, padding_mode="circular")


@over_kinds
def test_copies_and_state(kind):
    layer, x = small(kind), image(kind.dims, 8)
    assert list(layer.state_dict()) == ["weight", "bias"]
    fresh = kind(8, 4, 3, padding=1)
    fresh.load_state_dict(layer.state_dict())
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh):
        assert torch.equal(twin(x), layer(x))
        assert twin.weight.data_ptr() != layer.weight.data_ptr()


@over_kinds
def test_meta_layers_are_filled_by_loading(kind):
    layer, x = small(kind), image(kind.dims, 8)
    empty = copy.deepcopy(layer).to("meta")
    assert empty(x.to("meta")).shape == layer(x).shape
    empty.to_empty(device="cpu").load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x))
    assert kind(8, 4, 3, device="meta").weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@over_kinds
def test_dtypes(kind, dtype):
    layer, x = small(kind), image(kind.dims, 8)
    y = copy.deepcopy(layer).to(dtype)(x.to(dtype))
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), layer(x), rtol=5e-2, atol=5e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@over_kinds
def test_autocast_as_in_a_convolution(kind, dtype):
    layer, x = small(kind), image(kind.dims, 8)
    with torch.autocast("cpu", dtype):
        y = layer(x)
    assert y.dtype == dtype
    y.float().sum().backward()
    assert {parameter.grad.dtype for parameter in layer.parameters()} == {torch.float32}
    torch.testing.assert_close(y.float(), layer(x), rtol=5e-2, atol=5e-2)


@over_kinds
def test_compiled_in_one_graph_forward_and_backward(kind):
    assert_compiles_in_one_graph(small(kind), image(kind.dims, 8))


@over_kinds
def test_export(kind):
    assert_exports_with_any_batch(small(kind), image(kind.dims, 8))


def test_repr_shows_non_default_arguments():
    assert repr(QConv2d(8, 4, 3)) == "QConv2d(8, 4, kernel_size=(3, 3))"
    text = repr(QConv1d(8, 8, 3, 2, "valid", 3, 2, False, "circular", init="glorot"))
    assert text == (
        "QConv1d(8, 8, kernel_size=(3,), stride=(2,), padding=valid, dilation=(3,), groups=2, "
        "bias=False, padding_mode=circular, init=glorot)"
    )
    text = repr(QConvTranspose2d(8, 4, 3, 2, 1, 1, algorithm="16"))
    assert text.endswith("stride=(2, 2), padding=(1, 1), output_padding=(1, 1), algorithm=16)")


def conv_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, 2, "valid", 1, 2, padding_mode="zeros"),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1, groups=8, bias=False),
        nn.ConvTranspose2d(16, 8, 2, 2, output_padding=1),
        nn.Flatten(),
        nn.Linear(8, 8),
    )


def test_swap_makes_convolutions_with_the_same_settings(caplog):
    table = {nn.Conv2d: QConv2d, nn.ConvTranspose2d: QConvTranspose2d, nn.Linear: QLinear}
    with caplog.at_level(logging.INFO, "sparseq"):
        new = swap(conv_net(), table, generator=seeded())
    kinds = [type(module) for module in new]
    assert kinds[::2] == [nn.Conv2d, QConv2d, nn.Conv2d, nn.Flatten]
    assert kinds[5] is QConvTranspose2d
    assert (new[2].stride, new[2].padding, new[2].groups) == ((2, 2), "valid", 2)
    assert (new[5].output_padding, new[5].stride) == ((1, 1), (2, 2))
    kept = [text for text in caplog.messages if text.startswith("swap kept")]
    assert kept[0].startswith("swap kept 0: QConv2d: in_channels must be divisible by 4")
    assert kept[1].startswith("swap kept 4: QConv2d: groups must divide the 4 and 4 quaternion")
    x = torch.randn(2, 3, 7, 7, generator=seeded(2))
    assert new[:6](x).shape == conv_net()[:6](x).shape


def test_to_dense_of_a_model():
    model = nn.Sequential(small(QConv2d), nn.ReLU(), drawn(QConvTranspose2d, 4, 8, 2, groups=1))
    dense, x = to_dense(model.eval()), image(2, 8)
    assert [type(module) for module in dense] == [nn.Conv2d, nn.ReLU, nn.ConvTranspose2d]
    assert not dense[0].training
    torch.testing.assert_close(dense(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("granularity", ["component", "quaternion"])
def test_convolutions_are_pruned(granularity):
    model = nn.Sequential(small(QConv2d), nn.ReLU(), drawn(QConvTranspose2d, 4, 8, 2))
    mask = prune(model, "magnitude", density=0.5, granularity=granularity)
    assert set(mask) == {"0.weight", "2.weight"}
    assert mask.kept == round(0.5 * mask.total)
    if granularity == "quaternion":
        assert all(bool((keep == keep[:1]).all()) for keep in mask.values())
    mask.apply_(model)
    assert Mask.from_zeros(model) == mask
