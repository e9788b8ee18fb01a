from __future__ import annotations

import pytest
import torch
from torch import nn

from sparseq.nn import QConv2d, QConvTranspose1d, QLinear, convert_htorch
from sparseq.nn.quaternion.checkpoints import COMPONENTS


class Foreign(nn.Module):
    """A quaternion linear layer as in hTorch and Orkis, with components of (in / 4, out / 4)."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__()
        for name in COMPONENTS:
            self.register_parameter(
                name, nn.Parameter(torch.randn(in_features // 4, out_features // 4))
            )
        self.register_parameter("bias", nn.Parameter(torch.randn(out_features)) if bias else None)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        r, i, j, k = (getattr(self, name) for name in COMPONENTS)
        rows = [[r, i, j, k], [-i, r, k, -j], [-j, -k, r, i], [-k, j, -i, r]]
        y = x @ torch.cat([torch.cat(row, dim=1) for row in rows])
        return y if self.bias is None else y + self.bias


def foreign_net() -> nn.Sequential:
    return nn.Sequential(Foreign(12, 8), nn.ReLU(), Foreign(8, 16, bias=False), nn.Linear(16, 10))


def our_net() -> nn.Sequential:
    return nn.Sequential(QLinear(12, 8), nn.ReLU(), QLinear(8, 16, bias=False), nn.Linear(16, 10))


def test_a_converted_model_computes_the_same():
    theirs, ours, x = foreign_net(), our_net(), torch.randn(5, 12)
    state = theirs.state_dict()
    before = list(state)
    ours.load_state_dict(convert_htorch(state))
    torch.testing.assert_close(ours(x), theirs(x), rtol=1e-5, atol=1e-5)
    assert list(state) == before


def test_names_shapes_and_order():
    converted = convert_htorch(foreign_net().state_dict())
    assert list(converted) == ["0.weight", "0.bias", "2.weight", "3.weight", "3.bias"]
    assert converted["0.weight"].shape == (4, 2, 3)


def test_a_single_layer_has_no_prefix():
    theirs = Foreign(8, 4)
    converted = convert_htorch(theirs.state_dict())
    assert sorted(converted) == ["bias", "weight"]
    assert torch.equal(converted["weight"][2], theirs.j_weight.t())


def test_other_state_dicts_are_unchanged():
    state = our_net().state_dict()
    converted = convert_htorch(state)
    assert converted.keys() == state.keys()
    assert all(converted[name] is state[name] for name in state)


def test_the_dtype_is_kept():
    assert convert_htorch(Foreign(8, 4).double().state_dict())["weight"].dtype == torch.float64


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"j_weight": None}, "fc must have r_weight.*got no j_weight"),
        ({"i_weight": torch.zeros(3, 1)}, "fc must have components of one shape and dtype"),
        ({"i_weight": torch.zeros(2, 1).double()}, "components of one shape and dtype"),
        ({n: torch.zeros(2) for n in COMPONENTS}, "fc must be a linear layer or convolution"),
        ({"bias": torch.zeros(5)}, r"fc bias must have shape \(4,\), got \(5,\)"),
        ({"zero_kernel": torch.zeros(2, 1)}, "without rotation or scale, got a zero_kernel"),
        ({"scale_param": torch.zeros(2, 1)}, "without rotation or scale, got a scale_param"),
        ({"weight": torch.zeros(4, 1, 2)}, "plain quaternion layer.*got a weight"),
    ],
)
def test_layers_that_do_not_fit_are_refused_by_name(change, message):
    state = {f"fc.{name}": tensor for name, tensor in Foreign(8, 4).state_dict().items()}
    state.update({f"fc.{name}": tensor for name, tensor in change.items()})
    state = {name: tensor for name, tensor in state.items() if tensor is not None}
    with pytest.raises(ValueError, match=f"convert_htorch: .*{message}"):
        convert_htorch(state)


def parts_of(layer: nn.Module, swapped: bool) -> dict[str, torch.Tensor]:
    """A weight as the components of another library, the first two dimensions swapped if asked."""
    weight = layer.weight.detach()
    return dict(zip(COMPONENTS, weight.transpose(1, 2) if swapped else weight, strict=True))


def test_convolutions_of_both_orders():
    layer = QConv2d(12, 8, (3, 2))
    bias = {"bias": layer.bias.detach()}
    for order, swapped in (("in_out", True), ("out_in", False)):
        converted = convert_htorch(parts_of(layer, swapped) | bias, conv=order)
        assert torch.equal(converted["weight"], layer.weight)
    with pytest.raises(ValueError, match=r"bias must have shape \(12,\)"):
        convert_htorch(parts_of(layer, True) | bias, conv="out_in")
    with pytest.raises(ValueError, match="order of a convolution's sizes 'io'"):
        convert_htorch({}, conv="io")


@pytest.mark.parametrize("order", ["in_out", "out_in"])
def test_transposed_convolutions_are_named(order):
    layer = QConvTranspose1d(12, 8, 3)
    state = {f"up.{name}": part for name, part in parts_of(layer, False).items()}
    state["up.bias"] = layer.bias.detach()
    converted = convert_htorch(state, conv=order, transposed=["up"])
    assert torch.equal(converted["up.weight"], layer.weight)
