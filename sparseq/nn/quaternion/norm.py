"""Batch normalization of quaternion features."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from sparseq.errors import require, unknown_name
from sparseq.nn.affine import Affine
from sparseq.nn.layer_types import layer_type
from sparseq.nn.quaternion.linear import check_quaternion_sizes
from sparseq.nn.quaternion.whitening import whiten_batch, whiten_by
from sparseq.nn.torch_layers import running_affine
from sparseq.ops._channel_matrices import matmul
from sparseq.ops.quaternion_norm import sums_dtype
from sparseq.ops.quaternion_whiten import inverse_cholesky

NORM_MODES = ["whiten", "split"]


def running_affine_of_quaternions(norm: Any) -> Affine:
    """gamma W (x - mean) + beta, with the running statistics."""
    if norm.mode == "split":
        return running_affine(norm)
    matrix = inverse_cholesky(norm.running_cov.double(), norm.eps)
    matrix = matrix if norm.weight is None else matmul(norm.weight.double(), matrix)
    diagonal = matrix.diagonal(dim1=0, dim2=1)
    is_diagonal = torch.equal(torch.diag_embed(diagonal).movedim(0, -1), matrix)
    mean = norm.running_mean.double()
    shift = torch.zeros_like(mean) if norm.bias is None else norm.bias.double()
    affine = Affine(None if is_diagonal else matrix, diagonal.t().flatten(), shift)
    return affine.of_centered(mean)


class QBatchNorm(nn.Module):
    """Base class of `QBatchNorm1d`, `QBatchNorm2d` and `QBatchNorm3d`; see `QBatchNorm2d`."""

    __constants__: ClassVar[list[str]] = ["num_features", "eps", "momentum", "affine", "mode"]
    dims: ClassVar[tuple[int, ...]]
    weight: Any
    bias: Any
    running_mean: Any
    running_cov: Any
    running_var: Any
    num_batches_tracked: Any

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
        *,
        mode: str = "whiten",
    ) -> None:
        super().__init__()
        check_quaternion_sizes(type(self).__name__, num_features=num_features)
        if mode not in NORM_MODES:
            raise unknown_name(f"{type(self).__name__} mode", mode, NORM_MODES)
        self.num_features, self.eps, self.momentum, self.mode = num_features, eps, momentum, mode
        self.affine, self.track_running_stats = affine, track_running_stats
        matrix = (4, 4, num_features // 4) if mode == "whiten" else (num_features,)
        shapes = {"weight": matrix, "bias": (num_features,)} if affine else {}
        for name in ("weight", "bias"):
            shape = shapes.get(name)
            empty = None if shape is None else torch.empty(shape, device=device, dtype=dtype)
            self.register_parameter(name, None if empty is None else nn.Parameter(empty))
        second_moment = "running_cov" if mode == "whiten" else "running_var"
        for name, shape in (("running_mean", (num_features,)), (second_moment, matrix)):
            empty = torch.empty(shape, device=device, dtype=dtype) if track_running_stats else None
            self.register_buffer(name, empty)
        count = torch.tensor(0, device=device) if track_running_stats else None
        self.register_buffer("num_batches_tracked", count)
        self.reset_parameters()

    def reset_running_stats(self) -> None:
        """Reset the mean and the count to 0, the covariance to the identity (variance to 1)."""
        if self.running_mean is None:
            return
        self.running_mean.zero_()
        self.num_batches_tracked.zero_()
        _fill_(self._second_moment(), 1.0)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Reset the running statistics, gamma and beta to their initial values."""
        self.reset_running_stats()
        if self.affine:
            _fill_(self.weight, 0.5 if self.mode == "whiten" else 1.0)
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor) -> Tensor:
        """(N, num_features, ...) -> the same shape and dtype."""
        fits = x.dim() in self.dims and x.shape[1] == self.num_features
        if not fits:
            dims = " or ".join(map(str, self.dims))
            rule = f"must have {dims} dimensions and {self.num_features} features"
            require(False, type(self).__name__, "x", rule, tuple(x.shape))
        require(x.is_floating_point(), type(self).__name__, "x", "must be floating point", x.dtype)
        track = self.training and self.num_batches_tracked is not None
        if track:
            self.num_batches_tracked.add_(1)
        use_batch = self.training or self.running_mean is None
        normalize = self._whiten if self.mode == "whiten" else self._split
        return normalize(x, use_batch, track and x.numel() > 0)

    def extra_repr(self) -> str:
        """The constructor's arguments."""
        names = ("eps", "momentum", "affine", "track_running_stats", "mode")
        return f"{self.num_features}, " + ", ".join(f"{n}={getattr(self, n)}" for n in names)

    def _second_moment(self) -> Any:
        return self.running_cov if self.mode == "whiten" else self.running_var

    def _whiten(self, x: Tensor, use_batch: bool, track: bool) -> Tensor:
        dtype = sums_dtype(x)
        gamma, beta = _as_dtype(self.weight, dtype), _as_dtype(self.bias, dtype)
        if not use_batch:
            running = _as_dtype(self.running_mean, dtype), _as_dtype(self.running_cov, dtype)
            return whiten_by(x, running, gamma, beta, self.eps)
        y, stats = whiten_batch(x, gamma, beta, self.eps)
        if track:
            self._track(stats[0].flatten(), stats[1:], x.numel() // self.num_features)
        return y

    def _split(self, x: Tensor, use_batch: bool, track: bool) -> Tensor:
        count = x.numel() // max(self.num_features, 1)
        if track and count == 1:
            self._track(x.detach().flatten(), None, count)
        running = (self.running_mean, self.running_var)
        if use_batch and not (track and count > 1):
            running = (None, None)
        momentum = self.momentum if self.momentum is not None else float(self._factor())
        return torch.batch_norm(
            x,
            self.weight,
            self.bias,
            *running,
            use_batch,
            momentum,
            self.eps,
            torch.backends.cudnn.enabled,
        )

    def _factor(self) -> Any:
        """Weight of this batch in the running statistics; 1 / batches without momentum."""
        if self.momentum is not None:
            return self.momentum
        return 1.0 / self.num_batches_tracked.clamp(min=1)

    @torch.no_grad()
    def _track(self, mean: Tensor, cov: Tensor | None, count: int) -> None:
        """Update the running statistics; a single value updates the mean only."""
        pairs = [(self.running_mean, mean)]
        if cov is not None and count > 1:
            pairs.append((self._second_moment(), cov * (count / (count - 1))))
        factor = self._factor()
        for running, new in pairs:
            if isinstance(factor, float) and running.dtype == new.dtype:
                running.lerp_(new, factor)
            else:
                running.add_((new - running) * factor)


@layer_type(affine=running_affine_of_quaternions)
class QBatchNorm1d(QBatchNorm):
    """`QBatchNorm2d` for features (N, num_features) or (N, num_features, L)."""

    dims = (2, 3)


@layer_type(affine=running_affine_of_quaternions)
class QBatchNorm2d(QBatchNorm):
    """Batch normalization of quaternion features (N, num_features, H, W); for nn.BatchNorm2d.

    Features are stored in four blocks [r | i | j | k]. Mode "whiten" normalizes the four components
    of each quaternion channel jointly, x (4), with mean m (4) and covariance V (4, 4) over the
    batch and all positions:

        y = gamma W (x - m) + beta,    V + eps 1 = L L^T,  W = L^-1

    W is the inverse Cholesky factor, so that V^-1 = W^T W, as in Deep Quaternion Networks; the
    components of W (x - m) have variance 1 and no correlation. gamma is initially 1 / sqrt(4) = 1/2
    times the identity, so that the variances of the components of y sum to 1. Mode "split" is plain
    batch normalization of each component separately.

    In training, or without running statistics, the statistics are those of the batch. A batch with
    one value per channel (a batch of 1 with 1x1 maps) is not an error: y is beta, and the running
    covariance is not updated. An empty batch updates nothing. 16-bit features are normalized in
    float32.

    Args:
        num_features: real features, divisible by 4; C = num_features / 4 quaternions.
        eps: added to the covariance's diagonal.
        momentum: weight of a batch in the running statistics; None averages over all batches. The
            running covariance is the unbiased estimate.
        affine: learn gamma and beta; otherwise y = W (x - m).
        track_running_stats: keep running statistics for evaluation; otherwise the statistics are
            always those of the batch.
        device, dtype: of parameters and statistics; torch's defaults.
        mode: "whiten" or "split".

    Attributes:
        weight: gamma (4, 4, C), or (num_features) in mode "split"; None without `affine`.
        bias: beta (num_features), initially zero; None without `affine`.
        running_mean: (num_features); None without running statistics.
        running_cov: (4, 4, C), or `running_var` (num_features) in mode "split".

    Raises:
        ValueError: sizes not divisible by 4, an unknown mode, features of another shape.

    Source: Gaudet & Maida 2018, "Deep Quaternion Networks", section 3.4.
    """

    dims = (4,)


@layer_type(affine=running_affine_of_quaternions)
class QBatchNorm3d(QBatchNorm):
    """`QBatchNorm2d` for features (N, num_features, D, H, W)."""

    dims = (5,)


def _as_dtype(tensor: Any, dtype: torch.dtype) -> Any:
    """`tensor.to(dtype)` without a call if it has this dtype; None for None."""
    return tensor if tensor is None or tensor.dtype == dtype else tensor.to(dtype)


def _fill_(tensor: Tensor, value: float) -> None:
    """Fill a vector, or the diagonal of (4, 4, C) with zeros elsewhere."""
    with torch.no_grad():
        if tensor.dim() == 1:
            tensor.fill_(value)
        else:
            tensor.zero_().diagonal(dim1=0, dim2=1).fill_(value)
