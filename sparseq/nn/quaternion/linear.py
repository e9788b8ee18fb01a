"""The quaternion linear layer, twin of nn.Linear, with sizes in real features."""

from __future__ import annotations

from numbers import Integral
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.nn.affine import Affine, mix_components
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.init import INITS, quaternion_init_
from sparseq.nn.twins import linear_of, match_twin
from sparseq.ops.hamilton import ALGORITHMS, hamilton, real_weight


def check_quaternion_sizes(layer: str, **sizes: int) -> None:
    """ValueError unless each of the named sizes is a multiple of 4, and not negative."""
    rule = "must be divisible by 4 (a quaternion has four components)"
    for name, size in sizes.items():
        require(isinstance(size, Integral), layer, name, "must be an integer", repr(size))
        require(size >= 0 and size % 4 == 0, layer, name, rule, size)


def fold_quaternion(layer: Any, affine: Affine) -> Tensor | None:
    """Fold into a weight (4, out / 4, ...): a (w x) = (a w) x for quaternions."""
    product = affine.left_product()
    return None if product is None else mix_components(product, layer.weight.double())


@layer_type(
    twin=nn.Linear, op="hamilton", fold=fold_quaternion, weights=("weight",), quaternion=True
)
class QLinear(nn.Module):
    """Quaternion linear layer, y = W (x) x + b; twin of `nn.Linear`.

    Features are stored in four blocks [r | i | j | k]; the weight is the left factor of the
    Hamilton product (formula in `sparseq.ops.hamilton`). The weight has a quarter of the parameters
    of the real layer's.

    Args:
        in_features: real input features, divisible by 4.
        out_features: real output features, divisible by 4.
        bias: add a bias of (out_features), initially zero.
        device, dtype: of the parameters; torch's defaults.
        init: "he", "glorot" or "htorch", see `quaternion_init_`.
        algorithm: "auto", "8" or "16", see `sparseq.ops.hamilton`.
        generator: source of the initial weights; torch's default generator if None.

    Attributes:
        weight: (4, out_features / 4, in_features / 4), components r, i, j, k.
        bias: (out_features) or None.

    Raises:
        ValueError: sizes not divisible by 4, an unknown init or algorithm.

    Source: Gaudet & Maida 2018, "Deep Quaternion Networks", section 3.3.
    """

    __constants__: ClassVar[list[str]] = ["in_features", "out_features", "init", "algorithm"]
    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        init: str = "he",
        algorithm: str = "auto",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_quaternion_sizes("QLinear", in_features=in_features, out_features=out_features)
        choices = (("init", init, INITS), ("algorithm", algorithm, ALGORITHMS))
        for argument, name, names in choices:
            if name not in names:
                raise unknown_name(f"QLinear {argument}", name, names)
        self.in_features, self.out_features = in_features, out_features
        self.init, self.algorithm = init, algorithm
        shape = (4, out_features // 4, in_features // 4)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        biases = torch.empty(out_features, device=device, dtype=dtype) if bias else None
        self.register_parameter("bias", None if biases is None else nn.Parameter(biases))
        self.reset_parameters(generator)

    @classmethod
    def like(cls, module: nn.Linear, generator: torch.Generator | None = None) -> QLinear:
        """A freshly initialized layer with the sizes, bias, device and dtype of a real one."""
        weight, bias = module.weight, module.bias is not None
        sizes = (module.in_features, module.out_features)
        return cls(*sizes, bias, weight.device, weight.dtype, generator=generator)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Initialize the weight and zero the bias."""
        quaternion_init_(self.weight, self.init, generator=generator)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_features) -> (..., out_features)."""
        y: Tensor = hamilton(x, self.weight, self.bias, self.algorithm)
        return y

    def to_dense(self) -> nn.Linear:
        """The real layer that computes the same function; parameters are copied."""
        return linear_of(real_weight(self.weight.detach()), self)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        bias = self.bias is not None
        text = f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"
        text += "" if self.init == "he" else f", init={self.init}"
        return text + ("" if self.algorithm == "auto" else f", algorithm={self.algorithm}")


def quaternion_linear_of(weight: Tensor, twin: Any) -> QLinear:
    """A `QLinear` with this weight, and the bias, gradient flags and mode of its twin."""
    _, rows, columns = weight.shape
    layer = QLinear(4 * columns, 4 * rows, twin.bias is not None, device="meta")
    layer.weight = nn.Parameter(weight)
    match_twin(layer, twin)
    return layer
