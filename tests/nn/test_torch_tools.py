"""Tools of torch on every layer: torch.func, forward mode, torch.fx, flop counts, files."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import pytest
import torch
from torch import func, fx, nn
from torch.autograd import forward_ad
from torch.utils.flop_counter import FlopCounterMode

from sparseq.nn import QBatchNorm2d, QDropout, QLinear, SparseSequential
from sparseq.nn.layer_types import LAYER_TYPES
from tests.layer_samples import LAYERS, sparse

over_layers = pytest.mark.parametrize("name", LAYERS)
with_parameters = pytest.mark.parametrize(
    "name", [name for name, sample in LAYERS.items() if list(sample.build().parameters())]
)
# torch itself scripts some of its rules for forward mode, when they are first needed
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")


def assert_close(got, want):
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)


def directional(layer, x, tangent):
    """The derivative in a direction, from reverse mode twice."""
    x = x.detach().requires_grad_()
    y = layer(x)
    dy = torch.zeros_like(y, requires_grad=True)
    (dx,) = torch.autograd.grad(y, x, dy, create_graph=True)
    return torch.autograd.grad(dx, dy, tangent)[0]


class TestDerivatives:
    @over_layers
    def test_forward_mode_of_a_frozen_layer(self, name):
        layer, x = (
            LAYERS[name].layer(torch.float64).requires_grad_(False),
            LAYERS[name].x(torch.float64),
        )
        tangent = LAYERS[name].x(torch.float64, seed=2)
        want = directional(layer, x, tangent)
        assert want.any()
        assert_close(func.jvp(layer, (x,), (tangent,)), (layer(x), want))
        with forward_ad.dual_level():
            y = layer(forward_ad.make_dual(x, tangent))
            assert_close(forward_ad.unpack_dual(y).tangent, want)

    @over_layers
    def test_a_batch_of_batches(self, name):
        layer, x = LAYERS[name].layer(torch.float64), LAYERS[name].x(torch.float64)
        got = func.vmap(layer, in_dims=1)(torch.stack([x, 2 * x], 1))
        assert_close(got, torch.stack([layer(x), layer(2 * x)]))

    @with_parameters
    def test_gradients_of_each_example(self, name):
        layer, x = LAYERS[name].layer(torch.float64), LAYERS[name].x(torch.float64)
        parameters = dict(layer.named_parameters())

        def loss(parameters, example):
            return func.functional_call(layer, parameters, (example[None],)).square().sum()

        got = func.vmap(func.grad(loss), (None, 0))(parameters, x)
        for i, example in enumerate(x):
            want = torch.autograd.grad(loss(parameters, example), list(parameters.values()))
            assert_close([gradients[i] for gradients in got.values()], list(want))

    @with_parameters
    def test_ensembles(self, name):
        x, models = LAYERS[name].x(torch.float64), []
        for scale in (1, -2):
            models.append(LAYERS[name].layer(torch.float64))
            with torch.no_grad():
                for parameter in models[-1].parameters():
                    parameter *= scale
        parameters, buffers = func.stack_module_state(models)

        def call(parameters, buffers):
            return func.functional_call(models[0], (parameters, buffers), (x,))

        got = func.vmap(call)(parameters, buffers)
        assert_close(got, torch.stack([model(x) for model in models]))

    def test_of_a_whole_network_equal_those_of_its_dense_twin(self):
        names = ("SparseLinear", "QLinear", "SparseQLinear")
        sizes = {"SparseLinear": nn.Linear(8, 8), "SparseQLinear": QLinear(8, 8)}
        layers = [sparse(sizes[n]) if n in sizes else QLinear(8, 8) for n in names]
        model = nn.Sequential(*layers).double()
        twin = nn.Sequential(*(layer.to_dense() for layer in model))
        x = torch.randn(8, dtype=torch.float64)
        for transform in (func.jacrev, func.jacfwd, func.hessian):
            assert_close(
                transform(lambda a: model(a).tanh())(x), transform(lambda a: twin(a).tanh())(x)
            )

    def test_whitening_with_the_statistics_of_the_batch(self):
        norm = QBatchNorm2d(8, track_running_stats=False, dtype=torch.float64)
        x, tangent = torch.randn(2, 3, 8, 2, 2, dtype=torch.float64)
        want = directional(norm, x, tangent)
        assert_close(func.jvp(norm, (x,), (tangent,))[1], want)
        assert_close(func.vmap(norm)(torch.stack([x, 2 * x])), torch.stack([norm(x), norm(2 * x)]))

    def test_a_chain_of_layers_at_inference(self):
        chain = SparseSequential(sparse(nn.Linear(8, 12)), nn.ReLU(), sparse(nn.Linear(12, 4)))
        chain = chain.double().requires_grad_(False)
        x, tangent = torch.randn(2, 5, 8, dtype=torch.float64)
        y, dy = func.jvp(chain, (x,), (tangent,))
        assert_close(dy, directional(chain, x, tangent))
        assert_close(func.vmap(chain)(x), y)


class TestFx:
    @over_layers
    def test_symbolic_trace(self, name):
        layer, x = LAYERS[name].layer(), LAYERS[name].x()
        for model in (layer, nn.Sequential(nn.Identity(), copy.deepcopy(layer))):
            traced = fx.symbolic_trace(model)
            traced.graph.lint()
            for copied in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
                assert torch.equal(copied(x), model(x))

    def test_the_graph_has_one_node_for_each_layer(self):
        model = nn.Sequential(QLinear(8, 8), nn.ReLU(), sparse(nn.Linear(8, 4)))
        graph = fx.symbolic_trace(model).graph
        calls = [(node.op, node.target) for node in graph.nodes][1:-1]
        assert calls == [("call_module", name) for name in "012"]

    def test_a_traced_layer_has_the_mode_of_the_graph(self):
        x = torch.ones(4, 8, 50)
        for model in (QDropout(), nn.Sequential(QDropout())):
            traced = fx.symbolic_trace(model)
            assert (traced(x) == 0).any()
            assert torch.equal(traced.eval()(x), x)

    def test_hooks_run_once(self):
        layer = QLinear(8, 8)
        layer.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
        layer.register_forward_hook(lambda module, args, y: 2 * y)
        model, x = nn.Sequential(layer, nn.ReLU()), torch.randn(3, 8)
        assert torch.equal(fx.symbolic_trace(model)(x), model(x))


class TestFlops:
    @pytest.mark.parametrize("name", [n for n in LAYERS if hasattr(LAYERS[n].build(), "to_dense")])
    def test_are_the_kept_fraction_of_the_dense_layer(self, name):
        layer, x = LAYERS[name].layer(), LAYERS[name].x()
        twin = layer.to_dense()
        twin = twin.to_dense() if hasattr(twin, "to_dense") else twin
        counts = []
        for module in (layer, twin):
            with FlopCounterMode(display=False) as counter:
                module(x)
            counts.append(counter.get_total_flops())
        fraction = getattr(layer, "density", 1.0)
        assert counts[0] == pytest.approx(counts[1] * fraction)
        computes = LAYER_TYPES.get(type(layer).__name__).weights
        assert (counts[0] > 0) == bool(computes)


ORDERS = ["import torch, sparseq", "import sparseq, torch"]


class TestFiles:
    @pytest.mark.filterwarnings("ignore:`torch.jit.trace:FutureWarning")
    @pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # shapes are compared
    @pytest.mark.parametrize("order", ORDERS)
    def test_are_loaded_after_an_import_alone(self, order, tmp_path):
        model = nn.Sequential(sparse(nn.Linear(8, 4)), nn.ReLU(), QLinear(4, 8)).eval()
        x = torch.randn(3, 8)
        torch.save((x, model(x).detach()), tmp_path / "tensors.pt")
        torch.export.save(torch.export.export(model, (x,)), tmp_path / "model.pt2")
        torch.jit.trace(model, (x,)).save(tmp_path / "model.ts")
        code = (
            f"{order}\n"
            "x, y = torch.load('tensors.pt')\n"
            "assert torch.equal(torch.export.load('model.pt2').module()(x), y)\n"
            "assert torch.equal(torch.jit.load('model.ts')(x), y)\n"
        )
        run = [sys.executable, "-W", "ignore", "-c", code]
        result = subprocess.run(run, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr

    def test_an_import_alone_imports_no_torch(self):
        code = "import sparseq, sys; print('torch' in sys.modules)"
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
        assert result.stdout.split() == [b"False"]
