"""hamilton: the quaternion linear map y = W (x) x + b and its gradients, as one fused product

    C = A (x) B,   A (rows, depth), B (depth, lanes), C (rows, lanes), entries quaternions

forward: A = W, B = x^T;   dx: A = W* (conjugate transpose), B = dy^T;   dW: A = dy^T, B = x*.
An operand is a pointer to its first component and three strides in elements, between components,
rows and columns, so that every layout is read in place.

A program computes one tile of all four components of C. Each step over the depth loads the four
tiles of A and the four of B once; the edges are masked. "16" multiplies them by definition, into
four accumulators. "8" (Howell & Lafon 1975) computes in registers, with H = [[1,1,1,1],
[1,-1,1,-1],[1,1,-1,-1],[1,-1,-1,1]],

    S_r = 1/2 sum_i H[r,i] A_i,  V_r = 1/2 sum_j H[r,j] B_j,  G = H (S_r V_r)
    C_0 = 2 A_0 B_0 - G_0   C_1 = G_1 - 2 A_3 B_2   C_2 = G_2 - 2 A_1 B_3   C_3 = G_3 - 2 A_2 B_1

The factor 1/4 is split between the operands, so that float16 sums neither overflow nor lose bits
early. S and V are computed in float32 and rounded once, to the operands' dtype.

Registers limit the tile. The eight products have separate accumulators over the depth, which are
combined once, after the last step: adding each product to its four outputs in every step would
need half the accumulators but twenty tile additions outside the tensor cores. Eight float32
accumulators of 64 x 64 over eight warps are 128 of a thread's 255 registers; the others are for
addresses and S and V. If a size is not a multiple of 16, every entry needs its own address, and a
tile has half the lanes. Below 64 rows the tensor cores use an instruction with all operands in
registers, so tiles on tensor cores always have 64 rows. "16" has half the accumulators and fits
64 x 64 at any alignment, but its sixteen products share all eight operand tiles: for float32
products, outside the tensor cores, a thread needs its part of all of them, and 32 x 16 fits.

The order of the sums over the depth is fixed and there are no atomics, so every call gives the same
bits. float32 is multiplied as float32, or as tf32 if torch.backends.cuda.matmul allows it; float16
and bfloat16 are summed in float32. Other dtypes use the plain-torch reference.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from sparseq.triton_kernels._hamilton_plan import Plan, Sizes, plan_for
from torch import Tensor

from sparseq.ops.hamilton import hamilton_dw_reference, hamilton_dx_reference, hamilton_reference

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
STAGES = 3  # pipelined steps over the depth
INTERPRETED = tl.constexpr(bool(triton.knobs.runtime.interpret))


class Operand(NamedTuple):
    """A quaternion matrix in memory: its data, and its strides in elements."""

    data: Any
    component: Any
    row: Any
    column: Any

    def transposed(self) -> Operand:
        return Operand(self.data, self.component, self.column, self.row)


@triton.jit
def _quad(operand, rows, columns, height, width):
    """Load the four components of one tile; zero outside the matrix."""
    at = operand.data + rows.to(tl.int64)[:, None] * operand.row
    at += columns.to(tl.int64)[None, :] * operand.column
    inside = (rows[:, None] < height) & (columns[None, :] < width)
    tile0 = tl.load(at, mask=inside, other=0.0)
    tile1 = tl.load(at + operand.component, mask=inside, other=0.0)
    tile2 = tl.load(at + 2 * operand.component, mask=inside, other=0.0)
    tile3 = tl.load(at + 3 * operand.component, mask=inside, other=0.0)
    if INTERPRETED:  # the interpreter has no bfloat16 arithmetic
        tile0, tile1 = tile0.to(tl.float32), tile1.to(tl.float32)
        tile2, tile3 = tile2.to(tl.float32), tile3.to(tl.float32)
    return tile0, tile1, tile2, tile3


@triton.jit
def _h(x0, x1, x2, x3):
    """H times four tiles."""
    even, odd = x0 + x1, x0 - x1
    even2, odd2 = x2 + x3, x2 - x3
    return even + even2, odd + odd2, even - even2, odd - odd2


@triton.jit
def _half_h(x0, x1, x2, x3, CONJUGATE: tl.constexpr):
    """1/2 H times four tiles or their conjugate, rounded to their dtype."""
    sign: tl.constexpr = -0.5 if CONJUGATE else 0.5
    z1, z2, z3 = sign * x1.to(tl.float32), sign * x2.to(tl.float32), sign * x3.to(tl.float32)
    y0, y1, y2, y3 = _h(0.5 * x0.to(tl.float32), z1, z2, z3)
    return y0.to(x0.dtype), y1.to(x0.dtype), y2.to(x0.dtype), y3.to(x0.dtype)


@triton.jit
def _eight(a, b, rows, lanes, sizes, PLAN: tl.constexpr):
    """The four tiles of C by the eight products of Howell & Lafon."""
    ROWS: tl.constexpr = PLAN.rows  # Triton 3.6 takes no attributes in a shape
    LANES: tl.constexpr = PLAN.lanes
    zero = tl.zeros((ROWS, LANES), tl.float32)
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
    """The four tiles of C by definition, with sixteen products."""
    ROWS: tl.constexpr = PLAN.rows  # Triton 3.6 takes no attributes in a shape
    LANES: tl.constexpr = PLAN.lanes
    zero = tl.zeros((ROWS, LANES), tl.float32)
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
    """Add the bias of the rows to one component's tile and store it."""
    if bias is not None:
        at = bias + COMPONENT * sizes.rows + rows
        tile += tl.load(at, mask=rows < sizes.rows, other=0.0).to(tl.float32)[:, None]
    to = c.data + COMPONENT * c.component + rows.to(tl.int64)[:, None] * c.row
    to += lanes.to(tl.int64)[None, :] * c.column
    inside = (rows[:, None] < sizes.rows) & (lanes[None, :] < sizes.lanes)
    tl.store(to, tile.to(c.data.dtype.element_ty), mask=inside)


@triton.jit
def _product(a, b, c, bias, sizes, PLAN: tl.constexpr):
    """One tile of C; programs adjacent in the launch order share operands in the cache."""
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
    """Whether the kernels accept these tensors; otherwise the reference runs, or raises."""
    kinds = {(tensor.dtype, tensor.device) for tensor in tensors if tensor is not None}
    return fits and len(kinds) == 1 and next(iter(kinds))[0] in DTYPES


def _weight(weight: Tensor) -> Operand:
    """A weight (4, m, k) as an operand with rows m and columns k."""
    return Operand(weight, *weight.stride())


def _features(x: Tensor) -> Operand:
    """Features (..., 4 k) as an operand with rows k and the batch as columns."""
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
