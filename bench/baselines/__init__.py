"""What the layers are measured against, and the gate each measured call passes first."""

from bench.baselines.concatenated import (
    CatThenConv,
    CatThenLinear,
    cat_then_conv,
    cat_then_linear,
)
from bench.baselines.csr import csr_matrix, torch_csr
from bench.baselines.dense import (
    conv_forward_sides,
    conv_gradient,
    conv_gradient_sides,
    dw_sides,
    dx_sides,
    linear_bf16,
    linear_sides,
    network_sides,
    onednn_inference,
    onednn_linear,
    onednn_twin,
)
from bench.baselines.forms import (
    BEST,
    CALLED,
    Call,
    Form,
    in_layouts,
    inference,
    quickest,
    with_best,
)
from bench.baselines.gate import agrees
from bench.baselines.onnx_runtime import onnx_runtime

__all__ = [
    "BEST",
    "CALLED",
    "Call",
    "CatThenConv",
    "CatThenLinear",
    "Form",
    "agrees",
    "cat_then_conv",
    "cat_then_linear",
    "conv_forward_sides",
    "conv_gradient",
    "conv_gradient_sides",
    "csr_matrix",
    "dw_sides",
    "dx_sides",
    "in_layouts",
    "inference",
    "linear_bf16",
    "linear_sides",
    "network_sides",
    "onednn_inference",
    "onednn_linear",
    "onednn_twin",
    "onnx_runtime",
    "quickest",
    "torch_csr",
    "with_best",
]
