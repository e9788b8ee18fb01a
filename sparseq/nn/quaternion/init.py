"""Quaternion weight initialization (Gaudet & Maida 2018, section 3.5; Trabelsi et al. 2018)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from sparseq.errors import require, unknown_name
from sparseq.ops._inputs import takes_dense_tensors

INITS = ["he", "glorot", "htorch"]


@takes_dense_tensors
@torch.no_grad()
def quaternion_init_(
    weight: Tensor,
    init: str = "he",
    fan_in: int | None = None,
    fan_out: int | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Fill a quaternion weight in place: modulus s * chi(4), phase U(-pi, pi), random axis.

    The component variances are 2 s^2 (real) and 2/3 s^2 (each imaginary one), so that the output
    variance per component is 4 s^2 fan_in for inputs of variance one.

    Args:
        weight: (4, out, in, *kernel), floating point; components r, i, j, k.
        init: "he", s = 1 / sqrt(2 fan_in); "glorot", s = 1 / sqrt(2 (fan_in + fan_out)); or
            "htorch", s = 1 / sqrt(8 fan_in), the scale of the hTorch layers.
        fan_in: input quaternions of one output; by default in times the kernel's area.
        fan_out: output quaternions of one input; by default out times the kernel's area.
        generator: source of randomness, on any device; torch's default generator if None.

    Returns:
        The weight.

    Raises:
        ValueError: an unknown init, or a weight that is not (4, out, in, ...) of floats.
    """
    require(
        weight.dim() >= 3 and weight.shape[0] == 4 and weight.is_floating_point(),
        "quaternion_init_",
        "weight",
        "must be floating point of shape (4, out, in, ...)",
        f"{weight.dtype} {tuple(weight.shape)}",
    )
    area = math.prod(weight.shape[3:])
    fan_in = weight.shape[2] * area if fan_in is None else fan_in
    fan_out = weight.shape[1] * area if fan_out is None else fan_out
    scale = quaternion_scale(init, fan_in, fan_out)
    if weight.is_meta:
        return weight
    return weight.copy_(draw_quaternions(weight.shape[1:], weight, generator) * scale)


def quaternion_scale(init: str, fan_in: float, fan_out: float) -> float:
    """The scale s of `quaternion_init_`; fans in quaternions. A sum below 1 counts as 1."""
    fans = {"he": 2 * fan_in, "glorot": 2 * (fan_in + fan_out), "htorch": 8 * fan_in}
    if init not in fans:
        raise unknown_name("quaternion init", init, INITS)
    return 1 / math.sqrt(max(fans[init], 1))


def draw_quaternions(
    shape: tuple[int, ...], like: Tensor, generator: torch.Generator | None
) -> Tensor:
    """(4, *shape) random quaternions of scale s = 1, on the device of `like`, at least float32."""
    device = like.device if generator is None else generator.device
    dtype = torch.promote_types(like.dtype, torch.float32)
    normal = torch.randn((7, *shape), device=device, dtype=dtype, generator=generator)
    phase = torch.rand(shape, device=device, dtype=dtype, generator=generator)
    phase = (2 * phase - 1) * math.pi
    modulus, axis = normal[:4].norm(dim=0), normal[4:]
    axis = axis / axis.norm(dim=0).clamp_min(torch.finfo(dtype).tiny)
    unit = torch.cat([phase.cos()[None], phase.sin() * axis])
    quaternions: Tensor = (modulus * unit).to(like.device)
    return quaternions
