"""Every way in which torch differentiates, batches and counts an op; a new op is tested too."""

from __future__ import annotations

import pytest
import torch
from torch import func
from torch.autograd import forward_ad
from torch.utils._pytree import tree_flatten, tree_unflatten
from torch.utils.flop_counter import FlopCounterMode

from sparseq.formats import CSRPattern
from sparseq.ops._backend import OPERATORS
from sparseq.ops.spmm import spmm
from tests.op_samples import SAMPLES, drawing, pattern

# torch itself scripts some of its rules for forward mode, when they are first needed
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")
over_operators = pytest.mark.parametrize("name", sorted(OPERATORS))


class Call:
    """A call of an op, or of its reference, as a function of its floating point tensors."""

    def __init__(self, function, args):
        self.function, (self.leaves, self.tree) = function, tree_flatten(list(args))
        self.moving = [i for i, leaf in enumerate(self.leaves) if is_moving(leaf)]
        self.tensors = tuple(self.leaves[i] for i in self.moving)

    def __call__(self, *tensors):
        leaves = list(self.leaves)
        for i, tensor in zip(self.moving, tensors, strict=True):
            leaves[i] = tensor
        return self.function(*tree_unflatten(leaves, self.tree))

    def loss(self, *tensors):
        return self(*tensors).square().sum()


def is_moving(leaf) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point() and leaf.numel() > 0


def calls(name, count=None):
    """(op, reference) for each sample, where nothing requires a gradient."""
    for args in list(SAMPLES[name](drawing(torch.float64)))[:count]:
        for function in (OPERATORS[name].call, OPERATORS[name].entry):
            yield Call(function, args), Call(OPERATORS[name].reference, args)


def directions(call):
    draw = drawing(torch.float64, seed=7)
    return tuple(draw(*tensor.shape) for tensor in call.tensors)


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def everything(call):
    return tuple(range(len(call.tensors)))


class TestForwardMode:
    @over_operators
    def test_derivatives_are_those_of_finite_differences(self, name):
        for args in SAMPLES[name](drawing(torch.float64, requires_grad=True)):
            call = Call(OPERATORS[name].call, args)
            options = {"check_forward_ad": True, "check_backward_ad": False, "fast_mode": True}
            assert torch.autograd.gradcheck(call, call.tensors, **options)

    @over_operators
    def test_of_tensors_that_require_no_gradient(self, name):
        for op, reference in calls(name):
            tangents = directions(op)
            want = func.jvp(reference, op.tensors, tangents)
            assert_close(func.jvp(op, op.tensors, tangents), want)
            with torch.no_grad(), forward_ad.dual_level():
                duals = map(forward_ad.make_dual, op.tensors, tangents)
                assert_close(tuple(forward_ad.unpack_dual(op(*duals))), want)

    @over_operators
    def test_in_one_tensor_at_a_time(self, name):
        for op, reference in calls(name, count=1):
            for i, (tensor, tangent) in enumerate(zip(op.tensors, directions(op), strict=True)):
                before, after = op.tensors[:i], op.tensors[i + 1 :]
                got, want = (
                    func.jvp(lambda t, f=f: f(*before, t, *after), (tensor,), (tangent,))  # noqa: B023
                    for f in (op, reference)
                )
                assert_close(got, want)


class TestTransforms:
    @over_operators
    def test_gradients(self, name):
        for op, reference in calls(name):
            got = func.grad(op.loss, everything(op))(*op.tensors)
            assert_close(got, func.grad(reference.loss, everything(op))(*op.tensors))

    @over_operators
    def test_a_pullback_that_is_called_outside(self, name):
        for op, reference in calls(name, count=1):
            y, pullback = func.vjp(op, *op.tensors)
            assert_close(pullback(y), func.vjp(reference, *op.tensors)[1](y))

    @over_operators
    def test_jacobians_in_both_modes(self, name):
        op, reference = next(calls(name))
        want = func.jacrev(reference)(*op.tensors)
        assert_close(func.jacrev(op)(*op.tensors), want)
        assert_close(func.jacfwd(op)(*op.tensors), want)

    @over_operators
    def test_second_derivatives(self, name):
        op, reference = next(calls(name))
        tangents = directions(op)

        def curvature(loss):
            return func.jvp(func.grad(loss, everything(op)), op.tensors, tangents)[1]

        assert_close(curvature(op.loss), curvature(reference.loss))

    @over_operators
    @pytest.mark.parametrize("dim", [0, -1])
    def test_batches_of_any_tensor(self, name, dim):
        for op, _ in calls(name):
            for i, tensor in enumerate(op.tensors):
                pair = [tensor, -2 * tensor]
                in_dims = tuple(dim if j == i else None for j in everything(op))
                batch = torch.stack(pair, dim if dim == 0 else tensor.dim())
                got = func.vmap(op, in_dims)(*op.tensors[:i], batch, *op.tensors[i + 1 :])
                want = [op(*op.tensors[:i], one, *op.tensors[i + 1 :]) for one in pair]
                assert_close(got, torch.stack(want))

    @over_operators
    def test_batches_of_all_tensors(self, name):
        for op, _ in calls(name):
            got = func.vmap(op)(*(torch.stack([tensor, 3 * tensor]) for tensor in op.tensors))
            assert_close(got, torch.stack([op(*op.tensors), op(*(3 * t for t in op.tensors))]))

    @over_operators
    def test_gradients_of_each_example(self, name):
        for op, reference in calls(name, count=1):
            x, *others = op.tensors
            in_dims = (0, *(None for _ in others))
            got, want = (
                func.vmap(func.grad(f.loss, everything(op)), in_dims)(torch.stack([x, -x]), *others)
                for f in (op, reference)
            )
            assert_close(got, want)

    def test_patterns_of_each_example(self):
        """As in an ensemble whose buffers are stacked."""
        one, other = pattern(6, 5), CSRPattern.from_mask(pattern(6, 5).mask().roll(1, 1))
        stacked = [torch.stack(pair) for pair in zip(one.tensors, other.tensors, strict=True)]
        draw = drawing(torch.float64)
        x, values = draw(3, 5), draw(2, one.nnz)
        got = func.vmap(lambda v, *p: spmm(x, v, p))(values, *stacked)
        want = [spmm(x, v, p.tensors) for v, p in zip(values, (one, other), strict=True)]
        assert_close(got, torch.stack(want))

    def test_empty_batches(self):
        some, draw = pattern(6, 5), drawing(torch.float64)
        x, values = draw(3, 5), draw(some.nnz)
        for in_dims, args in (
            ((0, None), (x[None][:0], values)),
            ((None, 0), (x, values[None][:0])),
        ):
            y = func.vmap(lambda x, v: spmm(x, v, some.tensors), in_dims)(*args)
            assert y.shape == (0, 3, 6)

    @over_operators
    def test_autocast_as_without_a_transform(self, name):
        for args in list(SAMPLES[name](drawing(torch.float32)))[:1]:
            call = Call(OPERATORS[name].entry, args)
            with torch.autocast("cpu", torch.bfloat16):
                want = call(*call.tensors)
                y, _ = func.jvp(call, call.tensors, call.tensors)
                batched = func.vmap(call)(*(tensor[None] for tensor in call.tensors))
            assert y.dtype == batched.dtype == want.dtype
            torch.testing.assert_close(y, want, rtol=5e-2, atol=5e-2)

    def test_compiled_in_one_graph(self):
        some, draw = pattern(6, 5), drawing(torch.float64)
        values, x = draw(some.nnz), draw(3, 5)

        def examples(values, x):
            loss = lambda v, row: spmm(row, v, some.tensors).square().sum()  # noqa: E731
            return func.vmap(func.grad(loss), (None, 0))(values, x)

        compiled = torch.compile(examples, backend="aot_eager", fullgraph=True)
        assert_close(compiled(values, x), examples(values, x))


def counted(function, args) -> int:
    with FlopCounterMode(display=False) as counter:
        function(*args)
    return counter.get_total_flops()


def kept_fraction(args) -> float:
    """Of the dense matrix of an op with a pattern; 1 without one."""
    patterns = [a for a in args if isinstance(a, list) and len(a) == 5 and is_pattern(a)]
    if not patterns:
        return 1.0
    row_ptr, col_idx, row_ptr_t = patterns[0][:3]
    return len(col_idx) / ((len(row_ptr) - 1) * (len(row_ptr_t) - 1))


def is_pattern(tensors) -> bool:
    return all(isinstance(t, torch.Tensor) and t.dtype == torch.int32 for t in tensors)


class TestFlops:
    # torch counts products and convolutions only
    UNCOUNTED = ("max_pool", "quaternion_norm", "quaternion_whiten")

    @pytest.mark.parametrize("name", [n for n in sorted(OPERATORS) if "chain" not in n])
    def test_are_the_kept_fraction_of_those_of_the_dense_op(self, name):
        for args in SAMPLES[name](drawing(torch.float32)):
            got, groups = counted(OPERATORS[name].call, args), groups_of(name, args)
            if name.startswith(self.UNCOUNTED):
                assert got == 0
            elif groups == 1:  # torch's own count of a gradient ignores groups
                want = counted(OPERATORS[name].reference, args) * kept_fraction(args)
                assert got == pytest.approx(want)

    @pytest.mark.parametrize("name", [n for n in sorted(OPERATORS) if "chain" in n])
    def test_of_a_chain_are_those_of_its_layers(self, name):
        for args in SAMPLES[name](drawing(torch.float32)):
            recorded = [args[0].clone().requires_grad_(), *args[1:]]
            assert counted(OPERATORS[name].call, args) > 0
            assert counted(OPERATORS[name].call, args) == counted(OPERATORS[name].call, recorded)

    def test_of_both_gradients(self):
        some, draw = pattern(6, 5), drawing(torch.float32, requires_grad=True)
        x, values = draw(3, 5), draw(some.nnz)
        y = spmm(x, values, some.tensors)
        assert counted(lambda: y.sum().backward(), ()) == 2 * counted(
            spmm, (x, values, some.tensors)
        )


def groups_of(name, args) -> int:
    if name.startswith("sparse_conv"):
        return args[-1][-1]
    return args[-2] if name.startswith("hamilton_conv") else 1
