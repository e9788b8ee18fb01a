"""hamilton: Y = W (x) X, quaternion linear maps and their gradients, by one fused product

    C = A (x) B,   A (rows, depth), B (depth, lanes), C (rows, lanes), entries quaternions

forward: A = W, B = x^T;   dx: A = W* (conjugate transpose), B = dy^T;   dW: A = dy^T, B = x*.
An operand is its first component and three strides, in elements: from a component to the next,
from a row to the next, from a column to the next; so every layout is read where it lies.

A program computes one tile of all four components of C. Each step over the depth loads the four
tiles of A and the four of B once; the edges are masked. "16" multiplies them as the definition
says, into four accumulators. "8" (Howell & Lafon 1975) forms in registers, with H = [[1,1,1,1],
[1,-1,1,-1],[1,1,-1,-1],[1,-1,-1,1]],

    S_r = 1/2 sum_i H[r,i] A_i,  V_r = 1/2 sum_j H[r,j] B_j,  G = H (S_r V_r)
    C_0 = 2 A_0 B_0 - G_0   C_1 = G_1 - 2 A_3 B_2   C_2 = G_2 - 2 A_1 B_3   C_3 = G_3 - 2 A_2 B_1

The factor 1/4 is shared out so that float16 sums neither overflow nor lose bits early. Sums are
formed in float32 and rounded to the operands' dtype once.

Registers bound the tile. The eight products are summed over the depth apart and meet once, after
the last step: adding each to the four outputs it belongs to at every step would need half the
accumulators but twenty tile additions outside the tensor cores. Eight float32 accumulators of
64 x 64 over eight warps are 128 of a thread's 255 registers; the rest holds addresses and the
operands' sums. Where sizes are no multiples of 16 each entry has an address of its own, and half
the lanes are left to a tile. Below 64 rows tensor cores fall back to an instruction whose operands
all lie in registers, so their tiles keep 64. "16" has half the accumulators and takes 64 x 64 at
any alignment, but its sixteen products share all eight operand tiles: multiplied as float32,
outside the tensor cores, a thread holds its part of all of them, and 32 x 16 is what fits.

Sums run over the depth in one order: the same bits at every call. There are no atomics. float32
is multiplied as float32, or as tf32 where torch.backends.cuda.matmul says so; float16 and
bfloat16 are summed in float32. Other dtypes go to the plain-torch reference.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from sparseq.ops.hamilton import hamilton_dw_reference, hamilton_dx_reference, hamilton_reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FEW = 16  # quaternions; from here down the operands' bytes bound the product, not its arithmetic
STAGES = 3  # steps over the depth in flight
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Operand(NamedTuple):
    """Quaternion matrix in memory; strides in elements."""

    data: Any
    component: Any
    row: Any
    column: Any

    def transposed(self) -> Operand:
        return Operand(self.data, self.component, self.column, self.row)


class Sizes(NamedTuple):
    """Of a product, in quaternions."""

    rows: Any
    lanes: Any
    depth: Any


@dataclass(frozen=True)
class Plan:
    """What a kernel is compiled for: the form, the conjugated operand, and the tile."""

    eight: bool
    conjugate: str  # "a", "b" or ""
    precision: str  # of float32 products
    rows: int
    lanes: int
    depth: int
    warps: int


@triton.jit
def _quad(operand, rows, columns, height, width):
    """The four components of one tile; zero outside of the matrix."""
    at = operand.data + rows.to(tl.int64)[:, None] * operand.row
    at += columns.to(tl.int64)[None, :] * operand.column
    inside = (rows[:, None] < height) & (columns[None, :] < width)
    tile0 = tl.load(at, mask=inside, other=0.0)
    tile1 = tl.load(at + operand.component, mask=inside, other=0.0)
    tile2 = tl.load(at + 2 * operand.component, mask=inside, other=0.0)
    tile3 = tl.load(at + 3 * operand.component, mask=inside, other=0.0)
    if INTERPRETED:  # whose bfloat16 is only storage
        tile0, tile1 = tile0.to(tl.float32), tile1.to(tl.float32)
        tile2, tile3 = tile2.to(tl.float32), tile3.to(tl.float32)
    return tile0, tile1, tile2, tile3


@triton.jit
def _h(x0, x1, x2, x3):
    """H applied to four tiles."""
    even, odd = x0 + x1, x0 - x1
    even2, odd2 = x2 + x3, x2 - x3
    return even + even2, odd + odd2, even - even2, odd - odd2


@triton.jit
def _half_h(x0, x1, x2, x3, CONJUGATE: tl.constexpr):
    """1/2 H of four tiles or of their conjugate, rounded to their dtype."""
    sign: tl.constexpr = -0.5 if CONJUGATE else 0.5
    z1, z2, z3 = sign * x1.to(tl.float32), sign * x2.to(tl.float32), sign * x3.to(tl.float32)
    y0, y1, y2, y3 = _h(0.5 * x0.to(tl.float32), z1, z2, z3)
    return y0.to(x0.dtype), y1.to(x0.dtype), y2.to(x0.dtype), y3.to(x0.dtype)


@triton.jit
def _eight(a, b, rows, lanes, sizes, PLAN: tl.constexpr):
    """Howell & Lafon's form: the four tiles of C."""
    zero = tl.zeros((PLAN.rows, PLAN.lanes), tl.float32)
    p0, p1, p2, p3 = zero, zero, zero, zero
    q0, q1, q2, q3 = zero, zero, zero, zero
    for start in range(0, sizes.depth, PLAN.depth):
        depth = start + tl.arange(0, PLAN.depth)
        a0, a1, a2, a3 = _quad(a, rows, depth, sizes.rows, sizes.depth)
        b0, b1, b2, b3 = _quad(b, depth, lanes, sizes.depth, sizes.lanes)
        q0 = tl.dot(a0, b0, q0, input_precision=PLAN.precision)
        q1 = tl.dot(a3, b2, q1, input_precision=PLAN.precision)
        q2 = tl.dot(a1, b3, q2, input_precision=PLAN.precision)
        q3 = tl.dot(a2, b1, q3, input_precision=PLAN.precision)
        s0, s1, s2, s3 = _half_h(a0, a1, a2, a3, PLAN.conjugate == "a")
        v0, v1, v2, v3 = _half_h(b0, b1, b2, b3, PLAN.conjugate == "b")
        p0 = tl.dot(s0, v0, p0, input_precision=PLAN.precision)
        p1 = tl.dot(s1, v1, p1, input_precision=PLAN.precision)
        p2 = tl.dot(s2, v2, p2, input_precision=PLAN.precision)
        p3 = tl.dot(s3, v3, p3, input_precision=PLAN.precision)
    g0, g1, g2, g3 = _h(p0, p1, p2, p3)
    two: tl.constexpr = 2.0 if PLAN.conjugate == "" else -2.0
    return 2.0 * q0 - g0, g1 - two * q1, g2 - two * q2, g3 - two * q3


@triton.jit
def _sixteen(a, b, rows, lanes, sizes, PLAN: tl.constexpr):
    """The definition: the four tiles of C."""
    zero = tl.zeros((PLAN.rows, PLAN.lanes), tl.float32)
    c0, c1, c2, c3 = zero, zero, zero, zero
    for start in range(0, sizes.depth, PLAN.depth):
        depth = start + tl.arange(0, PLAN.depth)
        a0, a1, a2, a3 = _quad(a, rows, depth, sizes.rows, sizes.depth)
        b0, b1, b2, b3 = _quad(b, depth, lanes, sizes.depth, sizes.lanes)
        n1, n2, n3 = -a1, -a2, -a3
        if PLAN.conjugate == "a":
            a1, a2, a3, n1, n2, n3 = n1, n2, n3, a1, a2, a3
        if PLAN.conjugate == "b":
            b1, b2, b3 = -b1, -b2, -b3
        c0 = tl.dot(a0, b0, c0, input_precision=PLAN.precision)
        c0 = tl.dot(n1, b1, c0, input_precision=PLAN.precision)
        c0 = tl.dot(n2, b2, c0, input_precision=PLAN.precision)
        c0 = tl.dot(n3, b3, c0, input_precision=PLAN.precision)
        c1 = tl.dot(a1, b0, c1, input_precision=PLAN.precision)
        c1 = tl.dot(a0, b1, c1, input_precision=PLAN.precision)
        c1 = tl.dot(n3, b2, c1, input_precision=PLAN.precision)
        c1 = tl.dot(a2, b3, c1, input_precision=PLAN.precision)
        c2 = tl.dot(a2, b0, c2, input_precision=PLAN.precision)
        c2 = tl.dot(a3, b1, c2, input_precision=PLAN.precision)
        c2 = tl.dot(a0, b2, c2, input_precision=PLAN.precision)
        c2 = tl.dot(n1, b3, c2, input_precision=PLAN.precision)
        c3 = tl.dot(a3, b0, c3, input_precision=PLAN.precision)
        c3 = tl.dot(n2, b1, c3, input_precision=PLAN.precision)
        c3 = tl.dot(a1, b2, c3, input_precision=PLAN.precision)
        c3 = tl.dot(a0, b3, c3, input_precision=PLAN.precision)
    return c0, c1, c2, c3


@triton.jit
def _store(tile, c, bias, rows, lanes, sizes, COMPONENT: tl.constexpr):
    """Write one component's tile, the bias of its rows added."""
    if bias is not None:
        at = bias + COMPONENT * sizes.rows + rows
        tile += tl.load(at, mask=rows < sizes.rows, other=0.0).to(tl.float32)[:, None]
    to = c.data + COMPONENT * c.component + rows.to(tl.int64)[:, None] * c.row
    to += lanes.to(tl.int64)[None, :] * c.column
    inside = (rows[:, None] < sizes.rows) & (lanes[None, :] < sizes.lanes)
    tl.store(to, tile.to(c.data.dtype.element_ty), mask=inside)


@triton.jit
def _product(a, b, c, bias, sizes, PLAN: tl.constexpr):
    """One tile of C; neighbours in the launch order share operands in the cache."""
    row_tiles, lane_tiles = tl.cdiv(sizes.rows, PLAN.rows), tl.cdiv(sizes.lanes, PLAN.lanes)
    program = tl.program_id(0)
    row_tile, lane_tile = tl.swizzle2d(
        program // lane_tiles, program % lane_tiles, row_tiles, lane_tiles, 8
    )
    rows = row_tile * PLAN.rows + tl.arange(0, PLAN.rows)
    lanes = lane_tile * PLAN.lanes + tl.arange(0, PLAN.lanes)
    if PLAN.eight:
        c0, c1, c2, c3 = _eight(a, b, rows, lanes, sizes, PLAN)
    else:
        c0, c1, c2, c3 = _sixteen(a, b, rows, lanes, sizes, PLAN)
    _store(c0, c, bias, rows, lanes, sizes, 0)
    _store(c1, c, bias, rows, lanes, sizes, 1)
    _store(c2, c, bias, rows, lanes, sizes, 2)
    _store(c3, c, bias, rows, lanes, sizes, 3)


def plan_for(sizes: Sizes, dtype: torch.dtype, algorithm: str, conjugate: str = "") -> Plan:
    """Form and tile by size; "auto" takes "8" unless few rows or lanes share what is read."""
    eight = algorithm == "8" or (algorithm != "16" and min(sizes) > FEW)
    tf32 = torch.backends.cuda.matmul.fp32_precision == "tf32"
    exact = dtype == torch.float32 and not tf32
    rows, lanes = _tile(sizes, exact, eight)
    warps = 8 if rows * lanes > 256 else 4
    depth = 64 // dtype.itemsize
    return Plan(eight, conjugate, "ieee" if exact else "tf32", rows, lanes, depth, warps)


def _tile(sizes: Sizes, exact: bool, eight: bool) -> tuple[int, int]:
    """(rows, lanes) that fit the sizes and the registers; see the top of this file."""
    if exact and not eight:
        return _fit(sizes.rows, 32), _fit(sizes.lanes, 16)
    aligned = all(size % 16 == 0 for size in sizes)
    rows = _fit(sizes.rows, 64) if exact else 64
    return rows, _fit(sizes.lanes, 64 if aligned or not eight else 32)


def _fit(size: int, most: int) -> int:
    return min(most, max(16, triton.next_power_of_2(size)))


def _multiply(
    a: Operand, b: Operand, c: Operand, bias: Tensor | None, sizes: Sizes, plan: Plan
) -> None:
    if sizes.rows == 0 or sizes.lanes == 0:
        return
    grid = (triton.cdiv(sizes.rows, plan.rows) * triton.cdiv(sizes.lanes, plan.lanes),)
    with torch.cuda.device_of(c.data):
        options = {"num_warps": plan.warps, "num_stages": STAGES, "enable_fp_fusion": True}
        _product[grid](a, b, c, bias, sizes, plan, **options)


def _served(fits: bool, *tensors: Tensor | None) -> bool:
    """Whether the kernels take these; the reference takes the rest, or says what is wrong."""
    kinds = {(t.dtype, t.device) for t in tensors if t is not None}
    return fits and len(kinds) == 1 and next(iter(kinds))[0] in DTYPES


def _weight(weight: Tensor) -> Operand:
    """(4, m, k): rows m, columns k."""
    return Operand(weight, *weight.stride())


def _features(x: Tensor) -> Operand:
    """(..., 4 k): rows k, columns the batch."""
    flat = x.reshape(prod(x.shape[:-1]), x.shape[-1])
    batch, feature = flat.stride()
    return Operand(flat, flat.shape[1] // 4 * feature, feature, batch)


def hamilton(x: Tensor, weight: Tensor, bias: Tensor | None, algorithm: str) -> Tensor:
    """y = W (x) x + b; x (..., 4 k), weight (4, m, k), bias (4 m) or None -> (..., 4 m)."""
    _, m, k = weight.shape
    fits = x.shape[-1] == 4 * k and (bias is None or bias.numel() == 4 * m)
    if not _served(fits and weight.shape[0] == 4, x, weight, bias):
        return hamilton_reference(x, weight, bias, algorithm)
    y = x.new_empty((*x.shape[:-1], 4 * m))
    sizes = Sizes(m, prod(x.shape[:-1]), k)
    plan = plan_for(sizes, x.dtype, algorithm)
    bias = None if bias is None else bias.contiguous()
    _multiply(_weight(weight), _features(x), _features(y), bias, sizes, plan)
    return y


def hamilton_dx(dy: Tensor, weight: Tensor, algorithm: str) -> Tensor:
    """dx = W* (x) dy; dy (..., 4 m), weight (4, m, k) -> (..., 4 k)."""
    _, m, k = weight.shape
    if not _served(dy.shape[-1] == 4 * m and weight.shape[0] == 4, dy, weight):
        return hamilton_dx_reference(dy, weight, algorithm)
    dx = dy.new_empty((*dy.shape[:-1], 4 * k))
    sizes = Sizes(k, prod(dy.shape[:-1]), m)
    plan = plan_for(sizes, dy.dtype, algorithm, conjugate="a")
    _multiply(_weight(weight).transposed(), _features(dy), _features(dx), None, sizes, plan)
    return dx


def hamilton_dw(dy: Tensor, x: Tensor, algorithm: str) -> Tensor:
    """dW = sum over rows of dy (x) x*; (..., 4 m), (..., 4 k) -> (4, m, k)."""
    m, k = dy.shape[-1] // 4, x.shape[-1] // 4
    fits = prod(dy.shape[:-1]) == prod(x.shape[:-1]) and dy.shape[-1] % 4 == x.shape[-1] % 4 == 0
    if not _served(fits, dy, x):
        return hamilton_dw_reference(dy, x, algorithm)
    dw = dy.new_empty((4, m, k))
    sizes = Sizes(m, k, prod(dy.shape[:-1]))
    plan = plan_for(sizes, dy.dtype, algorithm, conjugate="b")
    _multiply(_features(dy), _features(x).transposed(), _weight(dw), None, sizes, plan)
    return dw
