"""Patterns are out of reach of what averages, casts, shares or swaps tensors of a layer."""

from __future__ import annotations

import copy
import gc
import io
import multiprocessing
import pickle

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from sparseq.formats import CSRPattern
from sparseq.nn import ExpanderConv2d, ExpanderLinear, SparseConv2d, SparseLinear, SparseQConv2d
from sparseq.nn.quaternion.conv import QConv2d
from sparseq.ops import _trust
from sparseq.ops._backend import OPERATORS
from tests.nn.conftest import CASES, IN, assert_same

IMAGE = (2, 8, 5, 5)
LAYERS = {
    **{case.name: (case.layer, (5, IN)) for case in CASES},
    "convolution": (lambda: SparseConv2d.from_dense(_sparse(nn.Conv2d(8, 4, 3))), IMAGE),
    "quaternion convolution": (lambda: SparseQConv2d.from_dense(QConv2d(8, 4, 3)), IMAGE),
    "expander": (lambda: ExpanderLinear(IN, 8, 3, "xnet", seed=1), (5, IN)),
    "expander convolution": (lambda: ExpanderConv2d(8, 4, 3, 4, seed=1), IMAGE),
}


def _sparse(layer):
    keep = torch.rand(layer.weight.shape, generator=torch.Generator().manual_seed(0)) < 0.4
    layer.weight.data *= keep
    return layer


@pytest.fixture(params=LAYERS)
def built(request):
    """A layer, and an input for it."""
    build, shape = LAYERS[request.param]
    return build(), torch.randn(shape, generator=torch.Generator().manual_seed(7))


def assert_keeps(layer, x, change):
    """`change` of a layer may change anything but what its pattern says."""
    mask, before = layer.pattern.mask(), layer.pattern
    change(layer)
    assert torch.equal(layer.pattern.mask(), mask)
    assert all(t.dtype == torch.int32 for t in layer.pattern.tensors)
    assert layer.pattern.equals(before)
    dtype = layer.kept_values().dtype
    got, want = layer(x.to(dtype)), layer.to_dense()(x.to(dtype))
    torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)


def test_an_average_with_buffers_moves_no_column(built):
    layer, x = built
    other = copy.deepcopy(layer)
    average = AveragedModel(layer, multi_avg_fn=get_ema_multi_avg_fn(0.9999), use_buffers=True)
    assert_keeps(average.module, x, lambda _: [average.update_parameters(other) for _ in range(3)])


@pytest.mark.parametrize(
    "write",
    [
        lambda mine, theirs: mine.mul_(0.9999).add_(theirs, alpha=1e-4) if mine.is_floating_point()
        else mine.mul_(2),
        lambda mine, theirs: mine.copy_(theirs.flip(0)),
        lambda mine, theirs: mine.zero_(),
    ],
)  # fmt: skip
def test_values_of_a_state_dict_written_in_place_move_no_column(built, write):
    layer, x = built
    theirs = copy.deepcopy(layer).state_dict()

    def change(layer):
        for name, mine in layer.state_dict().items():
            write(mine, theirs[name])

    assert_keeps(layer, x, change)


@pytest.mark.parametrize(
    "cast",
    [
        lambda layer: layer.type(torch.float64),
        lambda layer: layer.double(),
        lambda layer: layer.bfloat16(),
        lambda layer: layer.to("cpu", torch.float64),
        lambda layer: layer.share_memory(),
        lambda layer: layer._apply(lambda tensor: tensor.clone().add_(1)),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_casts_and_conversions_move_no_column(built, cast, swap):
    layer, x = built
    torch.__future__.set_swap_module_params_on_conversion(swap)
    try:
        assert_keeps(layer, x, cast)
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


def test_nothing_that_a_layer_gives_away_is_its_pattern(built):
    layer, x = built
    pattern, want = layer.pattern, layer(x)
    given = [*layer.buffers(), *layer.state_dict(keep_vars=True).values(), *pattern.tensors]
    names = ("row_ptr", "col_idx", "row_ptr_t", "col_idx_t", "perm")
    given += [getattr(owner, name) for owner in (layer, pattern) for name in names]
    given += [pattern.rows(), pattern.columns(), pattern.counts(), pattern.mask()]
    for tensor in given:
        if not tensor.is_floating_point():
            tensor.fill_(1)
            tensor.numpy()[...] = 1
    assert torch.equal(layer(x), want)


def test_a_pattern_keeps_no_memory_from_outside():
    row_ptr, col_idx = torch.tensor([0, 1, 3]).int(), torch.tensor([1, 0, 2]).int()
    pattern = CSRPattern.from_csr(row_ptr, col_idx, 3)
    again = CSRPattern(*pattern.tensors)
    mask = pattern.mask()
    for tensor in (row_ptr, col_idx):
        tensor.fill_(10**9)
    assert torch.equal(pattern.mask(), mask)
    assert again.equals(pattern)


@pytest.mark.parametrize("name", ["row_ptr", "col_idx", "row_ptr_t", "col_idx_t", "perm"])
def test_a_pattern_of_tensors_that_do_not_belong_together_is_refused(name):
    one = CSRPattern.from_mask(torch.rand(6, 9, generator=torch.Generator().manual_seed(1)) < 0.5)
    tensors = {n: getattr(one, n) for n in ("row_ptr", "col_idx", "row_ptr_t", "col_idx_t", "perm")}
    for change in (lambda t: t.flip(0), lambda t: t[:-1], lambda t: t.clone().fill_(10**9)):
        with pytest.raises(ValueError, match="CSRPattern: "):
            CSRPattern(**{**tensors, name: change(tensors[name])})


def test_functional_call_with_a_state_dict(built):
    layer, x = built
    state = {name: tensor.detach().clone() for name, tensor in layer.state_dict().items()}
    want = layer(x)
    assert torch.equal(functional_call(layer, state, (x,)), want)
    assert torch.equal(layer(x), want)


@pytest.mark.parametrize("change", [10**9, -1, 0])
@pytest.mark.parametrize("name", ["row_ptr", "col_idx"])
def test_functional_call_with_an_edited_pattern_is_refused(change, name):
    layer, x = CASES[0].layer(), torch.zeros(5, IN)
    state = {n: tensor.detach().clone() for n, tensor in layer.state_dict().items()}
    state[name][-1] = change
    want = layer(x)
    with pytest.raises(ValueError, match=f"{name} can be replaced only by load_state_dict"):
        functional_call(layer, state, (x,))
    assert torch.equal(layer(x), want)
    assert not layer._replaced


def test_a_pattern_that_was_set_is_refused_until_one_is_loaded():
    layer, state = CASES[0].layer(), CASES[0].layer().state_dict()
    layer.col_idx = torch.arange(layer.nnz).int()
    with pytest.raises(ValueError, match="col_idx can be replaced only by load_state_dict"):
        layer(torch.zeros(5, IN))
    layer.load_state_dict(state)
    assert layer(torch.zeros(5, IN)).shape == (5, 8)


def test_an_empty_layer_computes_nothing_until_a_state_is_loaded(built):
    layer, x = built
    empty = copy.deepcopy(layer).to("meta").to_empty(device="cpu")
    if not isinstance(layer, ExpanderLinear | ExpanderConv2d):  # their pattern is drawn again
        with pytest.raises((ValueError, RuntimeError)):
            empty(x)
    empty.load_state_dict(layer.state_dict())
    assert torch.equal(empty(x), layer(x))


def test_copies_and_pickles_are_checked_patterns(built):
    layer, x = built
    stream = io.BytesIO()
    torch.save(layer, stream)
    stream.seek(0)
    loaded = torch.load(stream, weights_only=False)
    for twin in (copy.copy(layer), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), loaded):
        assert_same(layer, twin)
        assert _trust.is_trusted(twin._pattern_tensors())
        assert torch.equal(twin(x), layer(x))


def _column_sum(pattern, results):
    results.put(int(pattern.columns().sum()))


def test_another_process_gets_a_pattern_of_its_own():
    pattern = CSRPattern.from_mask(torch.eye(7, dtype=torch.bool))
    addresses = [tensor.data_ptr() for tensor in pattern._tensors]
    context = multiprocessing.get_context("spawn")
    results = context.SimpleQueue()
    process = context.Process(target=_column_sum, args=(pattern, results))
    process.start()
    assert results.get() == 21
    process.join()
    assert [tensor.data_ptr() for tensor in pattern._tensors] == addresses


@pytest.mark.parametrize("first", range(5))
def test_trust_ends_with_any_of_the_tensors(first):
    pattern = CSRPattern.from_mask(torch.eye(5, dtype=torch.bool))
    assert _trust.is_trusted(pattern._tensors)
    assert not _trust.is_trusted(pattern.tensors)
    tensors, entry = list(pattern._tensors), _trust._entry(pattern._tensors, ())
    del pattern
    assert _trust._entries[entry[0]] == entry
    del tensors[first]
    gc.collect()
    assert entry[0] not in _trust._entries


def test_a_copy_of_a_pattern_is_checked_at_every_call():
    pattern, call = CSRPattern.from_mask(torch.eye(5, dtype=torch.bool)), OPERATORS["spmm"].call
    x, values, copies = torch.ones(2, 5), torch.ones(5), pattern.tensors
    assert torch.equal(call(x, values, None, copies, False), x)
    copies[1][0] = 10**9
    with pytest.raises((ValueError, RuntimeError), match="spmm: "):
        call(x, values, None, copies, False)
    assert torch.equal(pattern.mask(), torch.eye(5, dtype=torch.bool))


def test_tap_orders_belong_to_their_pattern():
    layer = SparseConv2d.from_dense(_sparse(nn.Conv2d(8, 4, 3, padding=1)))
    order = layer.pattern.tap_order(layer._geometry)
    assert layer.pattern.tap_order(layer._geometry) is order
    tensors, key = layer._pattern_tensors(), (layer._geometry.taps, layer._geometry.groups)
    assert _trust.is_trusted(order, tensors[0].data_ptr(), *key)
    assert not _trust.is_trusted(order, tensors[0].data_ptr(), key[0], 2)
    other = copy.deepcopy(layer)
    dense = layer.to_dense()
    dense.weight.data = dense.weight.data.flip(1)
    other.load_state_dict(SparseConv2d.from_dense(dense).state_dict())
    assert not torch.equal(other.pattern.tap_order(other._geometry)[2], order[2])


def test_layers_share_a_pattern_without_copies():
    pattern = CSRPattern.from_mask(torch.eye(4, dtype=torch.bool))
    a, b = SparseLinear(4, 4, pattern), SparseLinear(4, 4, pattern)
    assert a.pattern is b.pattern is copy.deepcopy(a).pattern
