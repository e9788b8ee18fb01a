"""What every operator must do; a new one is tested by being declared."""

from __future__ import annotations

import inspect

import pytest
import torch
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from sparseq.ops._backend import OPERATORS, activate
from tests.op_samples import SAMPLES, drawing
from tests.ops.cases import strided

SPOILS = {
    "far": lambda ids: _with_last(ids, 10**9),
    "negative": lambda ids: _with_last(ids, -1),
    "just outside": lambda ids: _with_last(ids, int(ids.max()) + 1),
    "in another order": lambda ids: ids.flip(0),
    "short": lambda ids: ids[:-1],
    "empty": lambda ids: ids[:0],
    "wide": lambda ids: ids.long(),
    "expanded": lambda ids: ids[-1:].expand(len(ids)),
}


def _with_last(ids, value):
    return torch.cat([ids[:-1], ids.new_tensor([value])])


def is_pattern(argument):
    is_list = isinstance(argument, list) and len(argument) % 5 == 0 and len(argument) > 0
    return is_list and all(getattr(a, "dtype", None) == torch.int32 for a in argument)


def with_huge(name, args, huge):
    """Arguments with another integer in one place of a list; for `relu` any but 0 is one."""
    for i, numbers in enumerate(args):
        argument = OPERATORS[name].call._schema.arguments[i]
        if argument.name == "relu" or not str(argument.type).startswith(
            ("List[int]", "List[SymInt]")
        ):
            continue
        for j in range(len(numbers)):
            yield [*args[:i], [*numbers[:j], huge, *numbers[j + 1 :]], *args[i + 1 :]]


over_patterned = pytest.mark.parametrize(
    "name",
    sorted(
        name
        for name, operator in OPERATORS.items()
        if {"pattern", "patterns"} & {a.name for a in operator.call._schema.arguments}
    ),
)
over_operators = pytest.mark.parametrize("name", sorted(OPERATORS))


def samples(name, dtype, requires_grad=False):
    return list(SAMPLES[name](drawing(dtype, requires_grad)))


def differentiable(args):
    return [a for a in args if isinstance(a, torch.Tensor) and a.is_floating_point()]


class TestOperators:
    def test_each_has_samples(self):
        assert set(SAMPLES) == set(OPERATORS)

    @over_operators
    def test_is_declared_in_full(self, name):
        operator = OPERATORS[name]
        has = torch._C._dispatch_has_kernel_for_dispatch_key
        for key in ("CompositeExplicitAutograd", "Autograd", "AutocastCPU", "AutocastCUDA", "Meta"):
            assert has(f"sparseq::{name}", key), key
        schema = operator.call._schema
        assert not [a.name for a in schema.arguments if a.has_default_value()]
        assert list(inspect.signature(operator.reference).parameters) == [
            a.name for a in schema.arguments
        ]
        assert operator.reference.__doc__
        assert inspect.getmodule(operator.reference).__doc__

    @over_operators
    @pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
    def test_opcheck(self, name):
        for args in samples(name, torch.float32, requires_grad=True):
            torch.library.opcheck(OPERATORS[name].call, args)

    @over_operators
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_agrees_with_the_reference_in_float64(self, name, dtype):
        for args, exact in zip(samples(name, dtype), samples(name, torch.float64), strict=True):
            got, want = OPERATORS[name].call(*args), OPERATORS[name].reference(*exact)
            assert got.dtype == dtype
            tolerance = 1e-5 if dtype == torch.float32 else 1e-12
            torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)

    @over_operators
    def test_gradients(self, name):
        for args in samples(name, torch.float64, requires_grad=True):
            leaves, tree = tree_flatten(args)

            def call(*leaves, tree=tree):
                return OPERATORS[name].call(*tree_unflatten(leaves, tree))

            assert torch.autograd.gradcheck(call, leaves)

    @over_operators
    def test_takes_expanded_gradients(self, name):
        for args in samples(name, torch.float32, requires_grad=True):
            OPERATORS[name].call(*args).sum().backward()
            assert all(a.grad is not None for a in differentiable(tree_flatten(args)[0]) if len(a))

    @over_operators
    def test_takes_strided_tensors(self, name):
        for args in samples(name, torch.float64):
            spread = tree_map(lambda a: strided(a) if differentiable([a]) else a, args)
            torch.testing.assert_close(OPERATORS[name].call(*spread), OPERATORS[name].call(*args))

    @over_operators
    def test_refuses_tensors_of_several_devices(self, name):
        for args in samples(name, torch.float32):
            leaves, tree = tree_flatten(args)
            tensors = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor)]
            for i in tensors if len(tensors) > 1 else []:
                mixed = [*leaves[:i], leaves[i].to("meta"), *leaves[i + 1 :]]
                with pytest.raises((ValueError, RuntimeError), match="must be on"):
                    OPERATORS[name].call(*tree_unflatten(mixed, tree))

    @over_patterned
    @pytest.mark.parametrize("spoil", SPOILS)
    def test_refuses_patterns_that_are_none(self, name, spoil):
        for args in samples(name, torch.float32):
            position = next(i for i in range(len(args)) if is_pattern(args[i]))
            if not args[position][1].numel():  # fewer rows without entries are a pattern too
                continue
            for i in range(len(args[position])):
                ids = args[position][i]
                if not ids.numel() or torch.equal(SPOILS[spoil](ids), ids):
                    continue
                tensors = [*args[position]]
                tensors[i] = SPOILS[spoil](ids)
                wrong = [*args[:position], tensors, *args[position + 1 :]]
                with pytest.raises((ValueError, RuntimeError), match="must"):
                    OPERATORS[name].call(*wrong)

    @over_operators
    @pytest.mark.parametrize("huge", [2**31, 2**63 - 1])
    def test_refuses_huge_geometries(self, name, huge):
        for args in samples(name, torch.float32):
            for wrong in with_huge(name, args, huge):
                with pytest.raises((ValueError, RuntimeError)):
                    OPERATORS[name].call(*wrong)

    @over_operators
    def test_same_bits_on_one_and_two_threads(self, name):
        if activate("cpu")[name] != "compiled":
            pytest.skip("plain torch serves, whose products may differ")
        results = []
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append([OPERATORS[name].call(*a) for a in samples(name, torch.float32)])
        for one, two in zip(*results, strict=True):
            assert torch.equal(one, two)
