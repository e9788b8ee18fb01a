"""Dense fp32 as users call it, and the best dense form of this machine.

That is what users call (`F.linear`, `nn.Linear`, `nn.Conv2d`, the network) or oneDNN with weights
prepared beforehand. They differ where torch's own call runs in another library: `F.linear` in MKL.
"""

from __future__ import annotations

import copy
import warnings

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines.forms import Call, Form, in_layouts, inference, with_best
from sparseq.nn import replace_modules

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch builds these modules with its deprecated TorchScript
    from torch.utils.mkldnn import to_mkldnn

ONEDNN = torch.backends.mkldnn.is_available()


def linear_sides(name: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Form]:
    """F.linear, and the best dense product: oneDNN with x and the weight in its own tensors."""
    called = Form("F.linear", lambda: F.linear(x, weight, bias))
    return with_best(name, called, onednn_linear(x, weight, bias))


def onednn_linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> dict[str, Call]:
    """oneDNN's products; all operands are prepared, the result stays as it comes."""
    if not ONEDNN:
        return {}
    x, weight = x.detach(), weight.detach()
    bias = None if bias is None else bias.detach()
    operands = [None if t is None else t.contiguous().to_mkldnn() for t in (x, weight, bias)]
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), x.numel() // x.shape[-1])
    pointwise = torch.ops.mkldnn._linear_pointwise.default
    return {
        "oneDNN": lambda: torch.ops.aten.mkldnn_linear(*operands),
        "oneDNN, packed weight": lambda: pointwise(x, packed, bias, "none", [], ""),
    }


def dx_sides(dy: Tensor, weight: Tensor) -> dict[str, Form]:
    """dy @ weight, and the best dense form of it."""
    called = Form("matmul", lambda: dy @ weight)
    return with_best("dense fp32", called, onednn_linear(dy, weight.t().contiguous(), None))


def dw_sides(dy: Tensor, x: Tensor) -> dict[str, Form]:
    """dy' @ x, and the best dense form of it."""
    others: dict[str, Call] = {}
    if ONEDNN:
        inner = torch.ops.aten.mkldnn_linear_backward_weights.default
        shape, ours, theirs = torch.empty(dy.shape[1], x.shape[1]), x.to_mkldnn(), dy.to_mkldnn()
        others["oneDNN"] = lambda: inner(theirs, ours, shape, False)[0]
    return with_best("dense fp32", Form("matmul", lambda: dy.t() @ x), others)


class OneDNNLinear(nn.Module):
    """A linear layer whose product and gradients run in oneDNN; x and y are plain tensors."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight, linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        return torch.ops.aten.mkldnn_linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


def onednn_twin(model: nn.Module) -> nn.Module:
    """A copy whose linear layers train in oneDNN, as convolutions do by themselves."""

    def rule(_: str, module: nn.Module) -> nn.Module | None:
        return OneDNNLinear(module) if isinstance(module, nn.Linear) else None

    model = copy.deepcopy(model)
    return OneDNNLinear(model) if isinstance(model, nn.Linear) else replace_modules(model, rule)


def onednn_inference(model: nn.Module, x: Tensor) -> dict[str, Call]:
    """A module converted to oneDNN's tensors and packed weights; x is prepared."""
    if not ONEDNN:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        converted = to_mkldnn(copy.deepcopy(model).eval())
    return {"oneDNN": inference(converted, x.detach().to_mkldnn())}


def network_sides(model: nn.Module, x: Tensor, name: str = "dense fp32") -> dict[str, Form]:
    """A network or layer as users call it, images in the quicker layout, and the best form."""

    def in_layout(layout: torch.memory_format) -> Call:
        return inference(copy.deepcopy(model).to(memory_format=layout), x.to(memory_format=layout))

    called = in_layouts(in_layout) if x.dim() == 4 else Form("contiguous", inference(model, x))
    return with_best(name, called, onednn_inference(model, x))


def conv_forward_sides(name: str, x: Tensor, weight: Tensor) -> dict[str, Form]:
    """A 3x3 convolution with a padding of 1 in the quicker layout, and the best dense one."""
    conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
    conv.weight = nn.Parameter(weight.detach())
    return network_sides(conv, x, name)


def conv_gradient(of: str, dy: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """`dx` or `dw` of torch's convolution with a padding of 1."""
    backward, mask = torch.ops.aten.convolution_backward.default, [of == "dx", of == "dw", False]
    rest = ([1, 1], [1, 1], [1, 1], False, [0, 0], 1, mask)
    return backward(dy, x, weight, None, *rest)[mask.index(True)]


def conv_gradient_sides(of: str, dy: Tensor, x: Tensor, weight: Tensor) -> dict[str, Form]:
    """The same in the quicker layout; it is oneDNN's already, so this is the best one too."""

    def in_layout(layout: torch.memory_format) -> Call:
        operands = [t.contiguous(memory_format=layout) for t in (dy, x, weight)]
        return lambda: conv_gradient(of, *operands)

    return with_best("dense fp32", in_layouts(in_layout), {})


def linear_bf16(x: Tensor, weight: Tensor, bias: Tensor | None) -> Call:
    """F.linear wholly in bfloat16; the conversion is not timed."""
    operands = [None if t is None else t.detach().bfloat16() for t in (x, weight, bias)]
    return lambda: F.linear(*operands)  # type: ignore[arg-type]
