"""What a layer or an op cannot compute is refused by an error that names it and a remedy."""

from __future__ import annotations

import importlib
import inspect

import pytest
import torch
from torch import nn

import sparseq.ops
from sparseq.formats import CSRPattern
from sparseq.nn import (
    ExpanderConv2d,
    QConvTranspose1d,
    QConvTranspose2d,
    QConvTranspose3d,
    QDropout,
    QLinear,
    QMaxPool2d,
    SparseLinear,
)
from sparseq.nn.layer_types import LAYER_TYPES
from sparseq.ops._backend import OPERATORS
from tests.layer_samples import LAYERS, sparse
from tests.op_samples import SAMPLES, drawing

over_layers = pytest.mark.parametrize("name", LAYERS)
COMPUTES_QUANTIZED = {"VectorMaxPool2d"}  # as nn.MaxPool2d does
COMPUTES_MKLDNN = {f"QBatchNorm{n}d of parts" for n in (2, 3)}  # as nn.BatchNorm2d does
FOREIGN = {
    "sparse": (torch.Tensor.to_sparse, r"x\.to_dense\(\), got torch\.sparse_coo"),
    "mkldnn": (torch.Tensor.to_mkldnn, r"x\.to_dense\(\), got torch\._mkldnn"),
    "nested": (
        lambda x: torch.nested.nested_tensor(list(x)),
        r"x\.to_padded_tensor\(0\.0\), got a nested tensor",
    ),
    "jagged": (
        lambda x: torch.nested.nested_tensor(list(x), layout=torch.jagged),
        r"x\.to_padded_tensor\(0\.0\), got a nested tensor",
    ),
    "quantized": (
        lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8),
        r"x\.dequantize\(\), got torch\.qint8",
    ),
    "array": (torch.Tensor.numpy, r"torch\.as_tensor\(x\), got ndarray"),
    "list": (torch.Tensor.tolist, r"torch\.as_tensor\(x\), got list"),
    "nothing": (lambda x: None, r"torch\.as_tensor\(x\), got NoneType"),
}


def public_functions():
    """The functions of sparseq.ops that take tensors."""
    for name in sparseq.ops.__all__:
        module = importlib.import_module(f"sparseq.ops.{name}")
        for function in vars(module).values():
            is_public = inspect.isfunction(function) and not function.__name__.startswith("_")
            if is_public and hasattr(function, "takes_dense_tensors"):
                yield function


def test_each_layer_has_a_sample():
    ours = {n for n in LAYER_TYPES.names() if "sparseq" in LAYER_TYPES.get(n).layer.__module__}
    assert ours == {type(sample.build()).__name__ for sample in LAYERS.values()}


@over_layers
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors is in prototype stage")
@pytest.mark.filterwarnings("ignore:.*quantize_per_tensor.*deprecated")
@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_inputs_of_layers(name, kind):
    make, message = FOREIGN[kind]
    layer, x = LAYERS[name].layer(), LAYERS[name].x()
    layer.train(name == "QDropout")  # otherwise it returns x, whatever that is
    if (kind == "quantized" and name in COMPUTES_QUANTIZED) or (
        kind == "mkldnn" and name in COMPUTES_MKLDNN
    ):
        pytest.skip("torch computes it")
    for mode in (torch.no_grad, torch.enable_grad):
        with mode(), pytest.raises(ValueError, match=rf"^\w+: x must be.*{message}$"):
            layer(make(x))


@over_layers
@pytest.mark.parametrize("dtype", [torch.complex64, torch.int32, torch.bool])
def test_other_dtypes_of_layers(name, dtype):
    layer, x = LAYERS[name].layer(), LAYERS[name].x()
    if name in ("QMaxPool2d", "VectorMaxPool2d"):
        pytest.skip("pools anything that can be compared")
    with pytest.raises(ValueError, match=rf"^[\w ,]+: x must .*{dtype}"):
        layer((x > 0).to(dtype))


@pytest.mark.parametrize("function", list(public_functions()), ids=lambda f: f.__name__)
def test_foreign_arguments_of_functions(function):
    first = next(iter(inspect.signature(function).parameters))
    count = sum(
        p.default is inspect.Parameter.empty
        for p in inspect.signature(function).parameters.values()
    )
    for foreign, remedy in (
        ([1.0], rf"torch\.as_tensor\({first}\), got list"),
        (torch.ones(4, 8).to_sparse(), rf"{first}\.to_dense\(\), got torch\.sparse_coo"),
    ):
        with pytest.raises(ValueError, match=rf"^{function.__name__}: {first} must be .*{remedy}"):
            function(foreign, *[None] * (count - 1))


def test_functions_name_the_foreign_one_among_their_arguments():
    some = CSRPattern.from_mask(torch.ones(2, 4, dtype=torch.bool))
    spmm = sparseq.ops.spmm.spmm
    x, values, bias = torch.ones(3, 4), torch.ones(8), torch.ones(2)
    with pytest.raises(ValueError, match=r"^spmm: values must be .*values\.to_dense"):
        spmm(x, values.to_sparse(), some.tensors, bias)
    with pytest.raises(ValueError, match=r"^spmm: bias must be .*bias\.to_dense"):
        spmm(x, values, some.tensors, bias.to_sparse())
    with pytest.raises(ValueError, match=r"^spmm: pattern\[1\] must be .*to_dense"):
        spmm(x, values, [some.row_ptr, some.col_idx.to_sparse(), *some.tensors[2:]], bias)


@pytest.mark.parametrize("name", sorted(OPERATORS))
def test_operators_refuse_each_foreign_tensor(name):
    operator = OPERATORS[name]
    names = [argument.name for argument in operator.call._schema.arguments]
    args = next(SAMPLES[name](drawing(torch.float32)))
    for i, tensor in enumerate(args):
        if isinstance(tensor, torch.Tensor):
            foreign = [*args[:i], tensor.to_sparse(), *args[i + 1 :]]
            with pytest.raises(ValueError, match=rf"^{name}: {names[i]} must be a dense tensor"):
                operator.call(*foreign)


def test_foreign_weights():
    twin = nn.Linear(4, 2)
    twin.weight = nn.Parameter(twin.weight.detach().to_sparse())
    with pytest.raises(ValueError, match=r"from_dense: module\.weight must .*\.to_dense\(\)"):
        SparseLinear.from_dense(twin)
    everything = torch.ones(2, 4, dtype=torch.bool)
    some = CSRPattern.from_mask(everything)
    for values in (torch.ones(8).to_sparse(), [1.0] * 8):
        with pytest.raises(ValueError, match="SparseLinear: values must be"):
            SparseLinear(4, 2, some, values)
    for mask in (everything.to_sparse(), everything.numpy(), everything.tolist()):
        with pytest.raises(ValueError, match="mask must be"):
            CSRPattern.from_mask(mask)
        with pytest.raises(ValueError, match="mask must be"):
            SparseLinear.from_dense(nn.Linear(4, 2), mask)


def with_settings():
    """(layer type, its arguments) of each convolution and pooling."""
    for name, sample in LAYERS.items():
        layer = sample.build()
        entry = LAYER_TYPES.get(type(layer).__name__)
        if not hasattr(layer, "kernel_size") or name == "VectorMaxPool2d":  # torch's constructor
            continue
        patterned = "pattern" in inspect.signature(entry.layer).parameters
        pattern = {"pattern": layer.pattern} if patterned else {}
        yield pytest.param(entry.layer, {**entry.arguments(layer), **pattern}, id=name)


@pytest.mark.parametrize(("layer_type", "arguments"), list(with_settings()))
@pytest.mark.parametrize("setting", ["kernel_size", "stride", "dilation", "padding"])
@pytest.mark.parametrize("value", [0, -1, 1.5, "1", (1, 1, 1, 1)], ids=str)
def test_settings_that_are_no_sizes(layer_type, arguments, setting, value):
    if setting == "padding" and value in (0, "1"):
        pytest.skip("0 is a size of a padding, and its names are another matter")
    with pytest.raises(ValueError, match=f"^{layer_type.__name__}: {setting} must be"):
        layer_type(**{**arguments, setting: value})


def test_sizes_that_are_none():
    for size in (4.0, "4", None, 6, -4):
        with pytest.raises(ValueError, match="QLinear: in_features must be"):
            QLinear(size, 4)
    with pytest.raises(ValueError, match="in_channels and out_channels must be"):
        ExpanderConv2d(-8, 8, 3, 1)
    for p in ("a", None, float("nan")):
        with pytest.raises(ValueError, match="QDropout: p must be"):
            QDropout(p)


def test_integers_of_numpy_are_sizes():
    kernel = torch.arange(4).numpy()[2]
    assert QMaxPool2d(kernel)(torch.ones(1, 4, 4, 4)).shape == (1, 4, 2, 2)
    layer = ExpanderConv2d(8, 8, kernel, 1)
    assert layer.kernel_size == (2, 2)
    assert type(layer.kernel_size[0]) is int


@pytest.mark.parametrize("extra", [1, 2, 3])
@pytest.mark.parametrize(
    ("layer_type", "shape"),
    [(QConvTranspose1d, (4,)), (QConvTranspose2d, (4, 3)), (QConvTranspose3d, (4, 3, 2))],
)
def test_output_padding_from_the_stride_up_to_the_dilation(layer_type, shape, extra):
    settings = {"stride": 1, "padding": 1, "output_padding": extra, "dilation": 4}
    layer = layer_type(8, 4, 2, **settings, dtype=torch.float64)
    x = torch.randn(2, 8, *shape, dtype=torch.float64, requires_grad=True)
    y, want = layer(x), layer.to_dense()(x)
    torch.testing.assert_close(y, want)
    got, wanted = (torch.autograd.grad(z.square().sum(), x)[0] for z in (y, want))
    torch.testing.assert_close(got, wanted)


def test_errors_of_layers_that_compute_stay_as_they_are():
    layer = sparse(nn.Linear(8, 4))
    with pytest.raises(ValueError, match=r"^spmm: x must have 8 features"):
        layer(torch.ones(2, 7))
