"""`PruningWrapper`: the interface of an earlier pruning system, implemented with `Mask`."""

from __future__ import annotations

import copy
import inspect
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from sparseq.errors import require
from sparseq.files.container import write_container
from sparseq.pruning import CRITERIA, Mask, MaskHandle, ScoreContext
from sparseq.pruning.prunable import prunable_parameters
from sparseq.pruning.select import select
from sparseq.seeds import derive_seed, derived_generator

INITIAL_WEIGHTS = "initial_weights.safetensors"
MASK_STATE = "_extra_state"

Filter = Callable[[str], bool] | Callable[[str, Tensor], bool]


class PruningWrapper(nn.Module):
    """Global magnitude or random pruning with rewinding; wraps a model and replaces it.

        net = PruningWrapper(model, 0.2, "cpu", "runs/one")
        net.set_initial_weights()
        for _ in range(25):
            ...  # train `net` like any module, with any optimizer
            net.prune_weights()
            net.reinitialize()

    The mask is always enforced, in whichever optimizer steps the model, and is part of the
    state_dict: loading a state_dict intersects its mask with the current one.

    Args:
        model: the network, stored as `net`; its state_dict keys become "net.<key>".
        prune_rate: fraction of the remaining weights that each `prune_weights` removes, in [0, 1).
        device: device to which the model is moved; None does not move it.
        dir_name: folder in which `set_initial_weights` saves; None keeps them in memory only.
        random_initialization: `reinitialize` draws new weights.
        random_prune: `prune_weights` selects weights at random.
        filter_function: name -> bool or (name, parameter) -> bool, called for every parameter of
            the model; True = prunable. None: weights of Linear, Conv and quaternion layers.
        save_dir: alias of dir_name.

    Attributes:
        net: the model.
        mask: the current `Mask`.
        seed: of random masks and random weights; set it before use.

    Raises:
        ValueError: a rate out of range, no prunable parameters, or both dir_name and save_dir.
    """

    def __init__(
        self,
        model: nn.Module,
        prune_rate: float = 0.2,
        device: torch.device | str | None = None,
        dir_name: str | os.PathLike[str] | None = None,
        random_initialization: bool = False,
        random_prune: bool = False,
        filter_function: Filter | None = None,
        save_dir: str | os.PathLike[str] | None = None,
    ) -> None:
        super().__init__()
        op = "PruningWrapper"
        require(0 <= prune_rate < 1, op, "prune_rate", "must lie in [0, 1)", prune_rate)
        single = dir_name is None or save_dir is None
        require(single, op, "save_dir", "must be None if dir_name is set", save_dir)
        self.net = model if device is None else model.to(device)
        self.prune_rate = prune_rate
        self.folder = dir_name if save_dir is None else save_dir
        self.random_initialization, self.random_prune = random_initialization, random_prune
        self.seed = 0
        self._events = 0
        self._initial: dict[str, Any] | None = None
        self._saved: Path | None = None
        parameters = _prunable(model, filter_function)
        require(len(parameters) > 0, op, "model", "must have prunable parameters", "none")
        self._handle: MaskHandle | None = None
        self._enforce(Mask({n: torch.ones_like(p).bool() for n, p in parameters.items()}))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The output of the model, whose dropped weights are zero."""
        return self.net(*args, **kwargs)

    def set_initial_weights(self) -> None:
        """Store the current state for `reinitialize`, also in the folder if there is one.

        May be called again (late resetting); does nothing with `random_initialization`.

        Raises:
            FileExistsError: the folder has the initial weights of another run.
        """
        if self.random_initialization:
            return
        state = copy.deepcopy(self.net.state_dict())
        if self.folder is not None:
            self._save(state, Path(self.folder))
        self._initial = state

    def prune_weights(self) -> None:
        """Drop the fraction `prune_rate` of the remaining weights, with one global threshold.

        Drops int(rate * remaining) weights: the smallest, or random ones with `random_prune`.
        """
        kept, total, _ = self.calculate_percent_pruned()
        criterion = "random" if self.random_prune else "magnitude"
        parameters = dict(self.net.named_parameters())
        context = ScoreContext(
            self.net,
            {name: parameters[name] for name in self.mask},
            generator=derived_generator("PruningWrapper.prune", self.seed, self._event()),
        )
        density = (kept - int(kept * self.prune_rate)) / total
        scores = CRITERIA.get(criterion)(context)
        self._enforce(select(scores, density, within=self.mask))

    def reinitialize(self) -> None:
        """Restore the initial weights, or draw new ones; pruned weights stay zero.

        Raises:
            RuntimeError: `set_initial_weights` has not been called.
        """
        if self.random_initialization:
            self._draw_weights()
        elif self._initial is None:
            raise RuntimeError("PruningWrapper.reinitialize: call set_initial_weights() first")
        else:
            self.net.load_state_dict(self._initial)
        self.mask.apply_(self.net)

    def calculate_percent_pruned(self, verbose: bool = False) -> tuple[int, int, float]:
        """(weights kept, prunable weights, fraction pruned); `verbose` prints them."""
        kept, total = self.mask.kept, self.mask.total
        if verbose:
            count = sum(parameter.numel() for parameter in self.net.parameters())
            print(f"pruned: {1 - kept / total:.2%} of {total} prunable weights")
            print(f"prunable: {total / count:.2%} of {count} parameters")
        return kept, total, (total - kept) / total

    def get_extra_state(self) -> Tensor:
        """The mask, for the state_dict: one bool vector of all parameters in order."""
        return torch.cat([keep.flatten().cpu() for keep in self.mask.values()])

    def set_extra_state(self, state: Tensor | None) -> None:
        """Intersect the mask with that of a state_dict; None (no mask) drops nothing."""
        if state is None:
            return
        total, got = self.mask.total, tuple(state.shape)
        fits = state.dtype == torch.bool and got == (total,)
        require(fits, "PruningWrapper", MASK_STATE, f"must be a mask of {total} weights", got)
        parts = state.split([keep.numel() for keep in self.mask.values()])
        shaped = zip(self.mask.items(), parts, strict=True)
        self._enforce(self.mask & Mask({name: part.view_as(k) for (name, k), part in shaped}))

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        state_dict.setdefault(prefix + MASK_STATE, None)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._enforce(self.mask)

    def _enforce(self, mask: Mask) -> None:
        if self._handle is not None:
            self._handle.remove()
        self.mask = mask
        self._handle = mask.enforce(self.net)

    def _event(self) -> int:
        self._events += 1
        return self._events

    def _save(self, state: dict[str, Any], folder: Path) -> None:
        path = folder / INITIAL_WEIGHTS
        if path.exists() and path != self._saved:
            raise FileExistsError(f"{path} belongs to another run; choose another dir_name")
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
        write_container(path, tensors, {}, "weights", overwrite=path == self._saved)
        self._saved = path

    def _draw_weights(self) -> None:
        """reset_parameters of every module, by the wrapper's seed; torch's random state is kept."""
        cuda_devices = {p.device for p in self.net.parameters() if p.device.type == "cuda"}
        seed = derive_seed("PruningWrapper.draw", self.seed, self._event())
        with torch.random.fork_rng(devices=list(cuda_devices)):
            torch.default_generator.manual_seed(seed)
            for device in cuda_devices:
                torch.cuda.default_generators[device.index].manual_seed(seed)
            for module in self.net.modules():
                reset = getattr(module, "reset_parameters", None)
                if callable(reset):
                    reset()


def _prunable(model: nn.Module, is_prunable: Callable[..., bool] | None) -> dict[str, nn.Parameter]:
    if is_prunable is None:
        return prunable_parameters(model)
    by_parameter = _accepts_two(is_prunable)
    return {
        name: parameter
        for name, parameter in model.named_parameters()
        if (is_prunable(name, parameter) if by_parameter else is_prunable(name))
    }


def _accepts_two(function: Callable[..., bool]) -> bool:
    """Whether a function accepts (name, parameter), or the name only."""
    try:
        inspect.signature(function).bind("name", None)
    except TypeError:
        return False
    except ValueError:  # a built-in without a signature
        return False
    return True
