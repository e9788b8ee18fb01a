"""Policy "measured" of `compress`: each form of each layer is timed on this machine.

1. The network runs once under hooks, for the inputs that each layer really sees.
2. Each layer's forms (`sparseq.compression.candidates`) take turns on these inputs; so do the
   runs of layers that one kernel can compute. Layers that are alike are timed once.
3. The whole network takes turns with the dense one. While it is not clearly the faster, the layers
   that save least become dense again.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.compression.break_even import density_of
from sparseq.compression.calls import Call, Replay
from sparseq.compression.candidates import CANDIDATES, DENSE
from sparseq.compression.chains import Chain, find_chains, in_a_row, sequential_paths
from sparseq.compression.choice import Choice, Verdict, ms_text, times_text
from sparseq.compression.example import accepted, describe, device_of_call, observe
from sparseq.compression.remembered import Remembered, remembered
from sparseq.compression.stopwatch import Stopwatch, layer_key
from sparseq.errors import require
from sparseq.nn.computed import declared_class, plain_layer
from sparseq.timing import quick_ms

# path -> form of each layer to convert -> the whole network in these forms
Build = Callable[[Mapping[str, str]], nn.Module]
WHOLE_SECONDS = 0.3
GAIN = 0.98  # of the dense network's time: what is closer to it may be slower the next time
HALVINGS = 2  # how often the less profitable half of the layers is given up before all are


def choose(
    model: nn.Module,
    keeps: Mapping[str, Tensor],
    call: Call,
    build: Build,
    *,
    training: bool = False,
    remember: bool = True,
) -> Choice:
    """The fastest form of each layer on this machine, for one example.

    Args:
        model: any module; it is not modified.
        keeps: path of each candidate layer -> bool tensor of its weight's shape, True = keep.
        call: the arguments of the model.
        build: makes the network in which the layers have some forms.
        training: time forward and backward passes.
        remember: use the times measured before on this machine, and keep new ones.

    Raises:
        ValueError: the model does not accept the example, or no output needs a gradient in
            training.
    """
    device = device_of_call(model, call)
    rows = remembered(device) if remember else Remembered(None)
    watched = [*keeps, *sequential_paths(model)]
    with accepted("compress", "example", "must be accepted by the model", lambda: _shapes(call)):
        twin, calls, outputs = observe(model, watched, call, training)
    grows = not training or any(y.requires_grad for y in outputs)
    rule = "must lead to an output that needs a gradient, for training=True"
    require(grows, "compress", "example", rule, _shapes(call))
    watch = Stopwatch(training, device, rows, quick_ms)
    trial = Trial(twin, keeps, calls, watch)
    trial.judge_layers()
    if not training and device.type == "cpu":
        trial.judge_chains()
    times = _settle(trial, Whole(build, call, watch))
    rows.save()
    threads = torch.get_num_threads()
    step = "forward and backward" if training else "forward"
    conditions = f"{_shapes(call)}, {step}, {device}, {threads} thread{'s' * (threads > 1)}"
    return Choice(trial.verdicts, *times, conditions)


@dataclass
class Trial:
    """The measurements of one network's layers.

    Attributes:
        model: a copy of the network, in the mode in which it is measured.
        keeps: path -> mask of its weight.
        calls: path -> calls in one run, of the layers and of each nn.Sequential.
        watch: times them.
        verdicts: path -> what was chosen so far.
        chains: the chains that were judged as a whole, with the milliseconds that each saves.
    """

    model: nn.Module
    keeps: Mapping[str, Tensor]
    calls: Mapping[str, Sequence[Call]]
    watch: Stopwatch
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    chains: dict[Chain, float] = field(default_factory=dict)
    _twins: dict[tuple[str, str], nn.Module] = field(default_factory=dict)

    def form(self, path: str, name: str) -> nn.Module:
        """A layer in some form; those made once are kept."""
        module = self.model.get_submodule(path)
        if name == DENSE:
            return module
        if (path, name) not in self._twins:
            made = CANDIDATES.get(name)(plain_layer(module), self.keeps[path])
            assert made is not None
            self._twins[path, name] = made.train(module.training)
        return self._twins[path, name]

    def judge_layers(self) -> None:
        """The fastest form of each layer by itself."""
        for path, keep in self.keeps.items():
            self.verdicts[path] = self._judged(path, keep)

    def _judged(self, path: str, keep: Tensor) -> Verdict:
        kind = declared_class(self.model.get_submodule(path)).__name__
        density = density_of(keep)
        stays = partial(Verdict, path, kind, density, DENSE, {})
        if density == 1:
            return stays(why="all its weights are kept")
        if not self.calls[path]:
            return stays(why="the example does not call it")
        names = [DENSE, *CANDIDATES.names()]
        forms = {name: partial(self.form, path, name) for name in names}
        times = self.watch.times(self._key_of(path), forms, self.calls[path])
        taken = min(times, key=times.__getitem__)  # the dense one if they are equal
        return Verdict(path, kind, density, taken, times)

    def judge_chains(self) -> None:
        """The fastest forms of the layers that could run as one kernel, as a whole."""
        called = [path for path in sequential_paths(self.model) if self.calls[path]]
        for name in CANDIDATES.names():
            times = {path: self.verdicts[path].times for path in self.verdicts}
            can_run = [path for path in times if math.isfinite(times[path].get(name, math.inf))]
            inside = [path for path in can_run if path.rpartition(".")[0] in called and path]
            twins = {path: self.form(path, name) for path in inside}
            for chain in find_chains(self.model, called, twins):
                if self.calls.get(chain.modules[0]):
                    self._judge_chain(chain, name)

    def _judge_chain(self, chain: Chain, name: str) -> None:
        alone = {path: self.verdicts[path].taken for path in chain.layers}
        rows = {DENSE: {}, "one by one": alone, name: dict.fromkeys(chain.layers, name)}
        different = {label: row for label, row in rows.items() if row or label == DENSE}
        if alone in (rows[name], dict.fromkeys(chain.layers, DENSE)):
            del different["one by one"]
        forms = {label: partial(self._row, chain, row) for label, row in different.items()}
        key = [*map(self._key_of, chain.modules), [*alone.values()] * ("one by one" in different)]
        times = self.watch.times(key, forms, self.calls[chain.modules[0]])
        fastest = min(times, key=times.__getitem__)
        self.chains[chain] = times[DENSE] - times[fastest]
        with_others = f"in a row of {', '.join(chain.modules)}: {times_text(times)}"
        for path in chain.layers:
            taken = different[fastest].get(path, DENSE)
            self.verdicts[path] = self.verdicts[path].instead(taken, with_others)

    def _row(self, chain: Chain, forms: Mapping[str, str]) -> nn.Module:
        return in_a_row(chain, lambda path: self.form(path, forms.get(path, DENSE)))

    def _key_of(self, path: str) -> Any:
        module = self.model.get_submodule(path)
        return layer_key(module, self.keeps[path]) if path in self.keeps else repr(module)

    def savings(self) -> list[tuple[float, tuple[str, ...]]]:
        """(milliseconds saved, layers) of whatever was converted, the smallest first."""
        chained = {path for chain in self.chains for path in chain.layers}
        units = [(saved, chain.layers) for chain, saved in self.chains.items()]
        units += [
            (verdict.times[DENSE] - verdict.times[verdict.taken], (path,))
            for path, verdict in self.verdicts.items()
            if not verdict.is_dense and path not in chained
        ]
        converted = [(saved, self._converted(layers)) for saved, layers in units]
        return sorted((saved, layers) for saved, layers in converted if layers)

    def _converted(self, layers: Sequence[str]) -> tuple[str, ...]:
        return tuple(path for path in layers if not self.verdicts[path].is_dense)

    def give_up(self, layers: Sequence[str], why: str) -> None:
        """Layers that become dense again."""
        for path in layers:
            self.verdicts[path] = self.verdicts[path].instead(DENSE, why)


class Whole:
    """The whole network, which takes turns with the dense one."""

    def __init__(self, build: Build, call: Call, watch: Stopwatch) -> None:
        self._build, self._call, self._watch = build, call, watch
        self._dense: Replay | None = None

    def times(self, taken: Mapping[str, str]) -> tuple[float, float]:
        """Milliseconds of the dense network and of the one with these forms."""
        self._dense = self._dense or self._work({})
        with self._watch.pure():
            works = [self._dense, self._work(taken)]
            dense_ms, chosen_ms = self._watch.clock(works, self._watch.device, WHOLE_SECONDS)
        return dense_ms, chosen_ms

    def _work(self, taken: Mapping[str, str]) -> Replay:
        training = self._watch.training
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the result's own building says the same
            network = self._build(taken).train(training)
        return Replay(network, self._call, training)


def _settle(trial: Trial, whole: Whole) -> tuple[float | None, float | None]:
    """Give layers up until the whole network is clearly faster than the dense one; its times."""
    for attempt in range(HALVINGS + 1):
        savings = trial.savings()
        if not savings:
            break
        taken = {path: trial.verdicts[path].taken for _, layers in savings for path in layers}
        dense_ms, chosen_ms = whole.times(taken)
        if chosen_ms <= GAIN * dense_ms:
            return dense_ms, chosen_ms
        dropped = savings[: -(-len(savings) // 2)] if attempt < HALVINGS else savings
        why = f"the whole network took {ms_text(chosen_ms)} with it, {ms_text(dense_ms)} dense"
        trial.give_up([path for _, layers in dropped for path in layers], why)
    return None, None


def _shapes(call: Call) -> str:
    """What the model is called with, for people."""
    named = [describe(value) for value in call.args]
    named += [f"{name}={describe(value)}" for name, value in call.kwargs.items()]
    return ", ".join(named)
