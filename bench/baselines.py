"""What the layers are measured against, and the gate each measured call passes first.

Dense fp32 has two baselines: what users call (`F.linear`, `nn.Linear`, `nn.Conv2d`, the network),
and BEST, the quickest dense form of this machine: the former or oneDNN with weights prepared
beforehand. They differ where torch's own call runs in another library, as `F.linear` in MKL.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.timing import fastest
from sparseq.nn import replace_modules

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # torch builds these modules with its deprecated TorchScript
    from torch.utils.mkldnn import to_mkldnn

Call = Callable[[], Any]
BEST = "best dense fp32"
ONEDNN = torch.backends.mkldnn.is_available()
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}
# largest error allowed, relative to the largest magnitude of the float64 result
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.bfloat16: 2e-2}


def agrees(got: Tensor, exact: Tensor, what: str) -> None:
    """The gate before a row: AssertionError unless `got` is the float64 result to rounding."""
    assert exact.dtype == torch.float64, "the reference must be float64"
    assert got.shape == exact.shape, f"{what}: shape {tuple(got.shape)}, not {tuple(exact.shape)}"
    error = float((got.detach().double() - exact).abs().max() / exact.abs().max().clamp_min(1e-300))
    assert error <= TOLERANCE[got.dtype], f"{what}: relative error {error:.2e}"


@dataclass(frozen=True)
class Form:
    """One form of a baseline: a call, and the name by which a row says which form it was."""

    name: str
    call: Call

    def __call__(self) -> Any:
        """Run it."""
        return self.call()


def quickest(forms: Mapping[str, Call]) -> Form:
    """The quickest of several forms."""
    name = fastest(forms)
    return Form(name, forms[name])


def with_best(name: str, called: Form, others: Mapping[str, Call]) -> dict[str, Form]:
    """Two sides of a race: the call users make, and the quickest of it and other dense forms."""
    best = quickest({called.name: called, **others}) if others else called
    return {name: called, BEST: called if best.name == called.name else best}


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


def in_layouts(make: Callable[[torch.memory_format], Call]) -> Form:
    """The quicker of torch's two memory layouts of images."""
    return quickest({name: make(layout) for name, layout in LAYOUTS.items()})


def inference(model: nn.Module, x: Tensor) -> Call:
    """A call without gradients."""

    def call() -> Tensor:
        with torch.no_grad():
            return model(x)

    return call


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


def torch_csr(x: Tensor, weight: Tensor, bias: Tensor | None) -> Form:
    """The quickest of torch's CSR products: int32 or int64 ids, strided or feature-major x.

    As in every row, x (n, k) and the result (n, m) are batch-major, changes of layout included.
    """
    column = None if bias is None else bias[:, None]
    forms = {}
    for ids in (torch.int32, torch.int64):
        matrix = csr_matrix(weight, ids)
        forms[f"{ids} strided"] = _csr_call(matrix, x, column, feature_major=False)
        forms[f"{ids} feature-major"] = _csr_call(matrix, x, column, feature_major=True)
    return quickest(forms)


def _csr_call(matrix: Tensor, x: Tensor, column: Tensor | None, feature_major: bool) -> Call:
    def call() -> Tensor:
        y = matrix @ (x.t().contiguous() if feature_major else x.t())
        return (y if column is None else y + column).t().contiguous()

    return call


def csr_matrix(weight: Tensor, ids: torch.dtype) -> Tensor:
    """A weight as torch's CSR matrix with ids of that type."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR support a beta
        full = weight.detach().to_sparse_csr()
        return torch.sparse_csr_tensor(
            full.crow_indices().to(ids), full.col_indices().to(ids), full.values(), full.shape
        )


def cat_then_linear(x: Tensor, parts: Iterable[Tensor], bias: Tensor | None) -> Tensor:
    """The quaternion layer of the known libraries: build the 4x real weight, call one GEMM.

    Args:
        x: (n, 4 k).
        parts: r, i, j, k, each (m, k), parameters of their own.
        bias: (4 m) or None.
    """
    r, i, j, k = parts
    rows = ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])
    return F.linear(x, torch.cat([torch.cat(row, dim=1) for row in rows], dim=0), bias)


def cat_then_conv(x: Tensor, parts: Iterable[Tensor], bias: Tensor | None, padding: int) -> Tensor:
    """The same for convolutions: build the 4x real weight, call torch's.

    Args:
        x: (n, 4 k, height, width).
        parts: r, i, j, k, each (m, k, *kernel), parameters of their own.
        bias: (4 m) or None.
        padding: zeros on each side.
    """
    r, i, j, k = parts
    rows = ([r, -i, -j, -k], [i, r, -k, j], [j, k, r, -i], [k, -j, i, r])
    weight = torch.cat([torch.cat(row, dim=1) for row in rows], dim=0)
    return F.conv2d(x, weight, bias, padding=padding)


class CatThenLinear(nn.Module):
    """`cat_then_linear` as a layer with four parameters.

    Args:
        weight: (4, m, k), copied.
        bias: (4 m) or None, copied.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        """(..., 4 k) -> (..., 4 m)."""
        return cat_then_linear(x, self.parts, self.bias)


class CatThenConv(nn.Module):
    """`cat_then_conv` as a layer with four parameters.

    Args:
        weight: (4, m, k, *kernel), copied.
        bias: (4 m) or None, copied.
        padding: zeros on each side.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, padding: int) -> None:
        super().__init__()
        self.parts = nn.ParameterList(nn.Parameter(part.clone()) for part in weight.detach())
        self.bias = None if bias is None else nn.Parameter(bias.detach().clone())
        self.padding = padding

    def forward(self, x: Tensor) -> Tensor:
        """(n, 4 k, height, width) -> (n, 4 m, height', width')."""
        return cat_then_conv(x, self.parts, self.bias, self.padding)
