"""Whole networks against the dense ones they came from; real training steps; memory."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from statistics import median
from time import perf_counter

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.baselines import Form, agrees, csr_matrix, quickest
from bench.cases import headline, normal, over_densities, over_steps, random_mask, useful_flop_of
from bench.suites.layers import call_of, dense_sides
from sparseq.compression.sparsify import compress
from sparseq.data.catalog import Request
from sparseq.data.fake import read_fake
from sparseq.models import build, std_hparams
from sparseq.nn import ExpanderLinear, SparseLinear, replace_modules, to_dense
from sparseq.pruning import prune
from sparseq.train import make_optimizer

BATCHES = [1, 64, 512]
LENET = "lenet_300_100"
STEPS = 200
DEGREE, MASK_DENSITY = 16, 0.05


def mlp(width: int = 2048, depth: int = 4) -> nn.Sequential:
    """`depth` square layers with ReLU between them."""
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number in range(depth):
        linear = layers[f"fc{number}"] = nn.Linear(width, width)
        nn.init.kaiming_normal_(linear.weight, generator=torch.Generator().manual_seed(number))
        nn.init.zeros_(linear.bias)
        layers[f"relu{number}"] = nn.ReLU()
    return nn.Sequential(layers)


NETWORKS = {
    LENET: (lambda: build(LENET), (1, 28, 28)),
    f"{LENET} quaternion": (lambda: build(LENET, algebra="quaternion"), (1, 28, 28)),
    "mlp 4x2048": (mlp, (2048,)),
}


def real_twin(model: nn.Module) -> nn.Module:
    """The model in nn.Linear layers alone."""
    while any(type(layer).__module__.startswith("sparseq") for layer in model.modules()):
        model = to_dense(model)
    return model


class CSRLinear(nn.Module):
    """A linear layer by torch's CSR product; its weight's gradient is a dense matrix."""

    def __init__(self, linear: nn.Linear, ids: torch.dtype, feature_major: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(csr_matrix(linear.weight, ids))
        self.bias = nn.Parameter(linear.bias.detach().clone())
        self.feature_major = feature_major

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        columns = x.t().contiguous() if self.feature_major else x.t()
        return (self.weight @ columns + self.bias[:, None]).t().contiguous()


def csr_call(dense: nn.Module, x: Tensor, dy: Tensor, step: str) -> Form:
    """The network with torch's CSR product in every layer: the quickest of its four forms."""
    forms = {}
    for ids in (torch.int32, torch.int64):
        for feature_major in (False, True):
            network = replace_modules(dense, _csr_rule(ids, feature_major))
            forms[f"{ids} {feature_major}"] = call_of(network, x, dy, step)
    return quickest(forms)


def _csr_rule(
    ids: torch.dtype, feature_major: bool
) -> Callable[[str, nn.Module], nn.Module | None]:
    def rule(_: str, module: nn.Module) -> nn.Module | None:
        return CSRLinear(module, ids, feature_major) if isinstance(module, nn.Linear) else None

    return rule


def gate(small: nn.Module, dense: nn.Module, x: Tensor) -> None:
    """The compressed network computes what the dense one does in float64."""
    with torch.no_grad():
        agrees(small(x), copy.deepcopy(dense).double()(x.double()), "network")


@headline(name="mlp 4x2048", batch=[64, 512], density=[0.1, 0.02], step="forward")
@headline(name="mlp 4x2048", batch=64, density=0.1, step="training")
@headline(name=LENET, batch=64, density=0.05, thread_count=1)
@headline(name=f"{LENET} quaternion", batch=64, density=0.05, thread_count=1)
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("batch", BATCHES, ids="batch-{}".format)
@over_densities
@over_steps
def test_compressed(race, extras, name, batch, density, step):
    make, shape = NETWORKS[name]
    model = make()
    mask = prune(model, density=density)
    mask.apply_(model)
    small = compress(model, mask, batch=batch, training=step == "training")
    dense = real_twin(model)
    x = normal(batch, *shape)
    gate(small, dense, x)
    dy = torch.ones_like(dense(x)).detach()
    useful = useful_flop_of(dense, x, step)
    sides = {"sparseq": call_of(small, x, dy, step), **dense_sides(dense, x, dy, step, "dense")}
    if extras:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # torch calls its CSR support a beta
            sides["torch CSR"] = csr_call(dense, x, dy, step)
    case = {"subject": name, "step": step, "batch": batch, "density": density}
    race(sides, "spmm", useful, suite="pipeline", **case)


class TimedStep:
    """Training steps of one network on MNIST-shaped examples, each part with its own clock.

    Attributes:
        parts: data, forward, backward, optimizer -> seconds of every step. The loss and zero_grad
            count to forward, as they do between two batches of `sparseq.train.fit`.
    """

    def __init__(self, model: nn.Module, batch: int) -> None:
        self.model, self.batch = model.train(), batch
        self.optimizer = make_optimizer(model, std_hparams(LENET))
        self.parts: dict[str, list[float]] = {
            name: [] for name in ("data", "forward", "backward", "optimizer")
        }
        self._batches = self._endless()

    def _endless(self) -> Iterator[tuple[Tensor, Tensor]]:
        train, _ = read_fake(Request())
        epoch = 0
        while True:
            for x, y in train.batches(self.batch, seed=0, epoch=epoch):
                if len(x) == self.batch:
                    yield x, y
            epoch += 1

    def take(self) -> None:
        """One step."""
        clock = [perf_counter()]
        x, y = next(self._batches)
        clock.append(perf_counter())
        self.optimizer.zero_grad()
        loss = F.cross_entropy(self.model(x), y)
        clock.append(perf_counter())
        loss.backward()
        clock.append(perf_counter())
        self.optimizer.step()
        clock.append(perf_counter())
        for part, start, end in zip(self.parts.values(), clock, clock[1:], strict=False):
            part.append(end - start)

    def medians(self) -> dict[str, float]:
        """Microseconds of each part, and of the whole step."""
        steps = [sum(times) for times in zip(*self.parts.values(), strict=True)]
        times = {**self.parts, "step": steps}
        return {f"{name}_us": round(1e6 * median(values), 2) for name, values in times.items()}


def lenets() -> Mapping[str, nn.Module]:
    """LeNet-300-100 dense, with a fixed mask compressed, and on graphs; the last layer dense."""
    dense = build(LENET)
    mask = prune(dense, density=MASK_DENSITY)
    names = [name for name, module in dense.named_modules() if isinstance(module, nn.Linear)]
    seeds = {name: seed for seed, name in enumerate(names[:-1])}

    def on_graph(name: str, module: nn.Module) -> nn.Module | None:
        if name not in seeds or not isinstance(module, nn.Linear):
            return None
        sizes = (module.in_features, module.out_features)
        return ExpanderLinear(*sizes, DEGREE, "regular", seed=seeds[name])

    return {
        "dense": dense,
        f"mask of {MASK_DENSITY:.0%}": compress(dense, mask, "sparse"),
        f"expander degree {DEGREE}": replace_modules(dense, on_graph),
    }


@headline(batch=64, thread_count=1)
@pytest.mark.parametrize("batch", [64, 512], ids="batch-{}".format)
def test_training_step(record, thread_count, batch):
    steps = {name: TimedStep(model, batch) for name, model in lenets().items()}
    for _ in range(STEPS):
        for step in steps.values():
            step.take()
    dense = steps["dense"].medians()
    for name, step in steps.items():
        took = step.medians()
        ratios = {
            f"{part}_ratio": round(dense[f"{part}_us"] / took[f"{part}_us"], 3)
            for part in ("forward", "backward", "optimizer", "step")
        }
        record(
            suite="training",
            subject=f"{LENET}, Adam",
            case=name,
            batch=batch,
            threads=thread_count,
            rounds=STEPS,
            **took,
            **ratios,
        )


def training_bytes(layer: nn.Module, x: Tensor) -> int:
    """Bytes of parameters, gradients, Adam's state and pattern after one step on x."""
    optimizer = torch.optim.Adam(layer.parameters())
    layer(x).sum().backward()
    optimizer.step()
    parameters = list(layer.parameters())
    state = [tensor for entry in optimizer.state.values() for tensor in entry.values()]
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    pattern = getattr(layer, "pattern", None)
    tensors = (*parameters, *gradients, *state, *layer.buffers())
    return sum(tensor.nbytes for tensor in tensors) + (0 if pattern is None else pattern.nbytes)


def memory_share(width: int, density: float) -> float:
    """Bytes of a sparse layer in training as a fraction of the dense layer's."""
    dense, x = nn.Linear(width, width), torch.ones(2, width)
    sparse = SparseLinear.from_dense(dense, random_mask(width, width, density))
    return training_bytes(sparse, x) / training_bytes(dense, x)


@headline()
@pytest.mark.parametrize("density", [0.2, 0.1, 0.05, 0.02], ids="density-{}".format)
def test_training_memory(record, density):
    record(
        suite="memory",
        subject="SparseLinear in training, Adam",
        case="2048x2048",
        density=density,
        fraction_of_dense=round(memory_share(2048, density), 4),
    )
