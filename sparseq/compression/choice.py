"""What `compress` has chosen, layer by layer, by which times or tables, and how it is printed."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import nn

from sparseq.compression.candidates import DENSE


@dataclass(frozen=True)
class Verdict:
    """The form that was chosen for a layer.

    Attributes:
        layer: its path.
        kind: name of its dense class.
        density: fraction of its weights that is kept.
        taken: name of the form, "dense" or a name in `CANDIDATES`.
        times: form -> milliseconds of all its calls in one run, infinite if it cannot run; empty
            if nothing was measured.
        why: what else decided; "" if the times of the layer alone did.
    """

    layer: str
    kind: str
    density: float
    taken: str
    times: Mapping[str, float]
    why: str = ""

    @property
    def is_dense(self) -> bool:
        """Whether the layer stays as it is."""
        return self.taken == DENSE

    @property
    def reason(self) -> str:
        """The measured times, and what else decided."""
        return "; ".join(filter(None, (times_text(self.times), self.why)))

    def instead(self, taken: str, why: str) -> Verdict:
        """The same times with another outcome."""
        return replace(self, taken=taken, why="; ".join(filter(None, (self.why, why))))

    def __str__(self) -> str:
        fate = "stays dense" if self.is_dense else f"becomes {self.taken}"
        name = self.layer or "the model"
        why = self.reason and f": {self.reason}"
        return f"{name} ({self.kind}, {100 * self.density:.3g} % kept) {fate}{why}"


@dataclass(frozen=True)
class Choice:
    """The outcome of `compress` but for policy "sparse": the attribute `compression` of its result.

    Attributes:
        verdicts: path of each candidate layer -> what was chosen, in the model's order.
        dense_ms, chosen_ms: milliseconds of the whole network, all dense and as chosen; None if all
            layers stay dense, or the tables decided.
        conditions: example, device, threads and step, or batch.
    """

    verdicts: Mapping[str, Verdict]
    dense_ms: float | None
    chosen_ms: float | None
    conditions: str

    @property
    def taken(self) -> dict[str, str]:
        """Path -> form, of the layers that are converted."""
        return {path: each.taken for path, each in self.verdicts.items() if not each.is_dense}

    def as_built(self, model: nn.Module, result: nn.Module) -> Choice:
        """The choice as carried out: layers that could not be replaced stay dense.

        Args:
            model: the dense model.
            result: what was built from it.
        """
        verdicts = dict(self.verdicts)
        for path in self.taken:
            if type(result.get_submodule(path)) is type(model.get_submodule(path)):
                verdicts[path] = verdicts[path].instead(DENSE, "it cannot be replaced, see warning")
        return replace(self, verdicts=verdicts)

    @property
    def summary(self) -> str:
        """One line about the whole network."""
        all_layers, converted = len(self.verdicts), len(self.taken)
        text = f"{converted} of {all_layers} layers converted, for {self.conditions}"
        if self.dense_ms is None or self.chosen_ms is None:
            return text
        ratio = self.dense_ms / max(self.chosen_ms, 1e-9)
        return (
            f"{text}: {ms_text(self.dense_ms)} dense, {ms_text(self.chosen_ms)} now ({ratio:.2f}x)"
        )

    def lines(self) -> list[str]:
        """A line for every layer, then the summary."""
        return [*map(str, self.verdicts.values()), self.summary]

    def __str__(self) -> str:
        return "\n".join(self.lines())


def times_text(times: Mapping[str, float]) -> str:
    """ "0.12 ms dense, 0.05 ms sparse"."""
    return ", ".join(
        f"{ms_text(ms)} {name}" if math.isfinite(ms) else f"cannot run {name}"
        for name, ms in times.items()
    )


def ms_text(ms: float) -> str:
    """Milliseconds with three digits."""
    return f"{ms:.0f} ms" if ms >= 999.5 else f"{ms:.3g} ms"
