"""`Mask`: which weights are kept, as data."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from os import PathLike

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from sparseq.errors import require
from sparseq.files.mask_file import read_mask, write_mask
from sparseq.formats import check_mask, check_masks
from sparseq.graphs import Graph
from sparseq.pruning.enforcement import MaskHandle
from sparseq.pruning.graph_mask import graph_masks
from sparseq.pruning.prunable import prunable_parameters


class Mask(Mapping[str, Tensor]):
    """Parameter name -> bool tensor of the parameter's shape, True = keep. A value, not a wrapper.

    The model keeps the state_dict keys of the dense model. Masking selects, it does not multiply:
    a NaN in a dropped entry never propagates.

    Args:
        keep: bool tensors by parameter name; copied.

    Raises:
        ValueError: an entry that is not a bool tensor; the message names the parameter.
    """

    def __init__(self, keep: Mapping[str, Tensor]) -> None:
        self._keep: dict[str, Tensor] = {}
        for name, tensor in keep.items():
            check_mask("Mask", f"keep[{name!r}]", tensor)
            self._keep[name] = tensor.detach().clone(memory_format=torch.contiguous_format)

    @classmethod
    def ones(cls, model: nn.Module, exclude: str | Iterable[str] = ()) -> Mask:
        """A mask that keeps every prunable weight; `exclude` as in `prunable_parameters`."""
        parameters = prunable_parameters(model, exclude)
        return cls({n: torch.ones_like(p, dtype=torch.bool) for n, p in parameters.items()})

    @classmethod
    def from_zeros(cls, model: nn.Module, exclude: str | Iterable[str] = ()) -> Mask:
        """A mask that drops the prunable weights that are exactly zero; `exclude` as in `ones`."""
        parameters = prunable_parameters(model, exclude)
        return cls({name: weight != 0 for name, weight in parameters.items()})

    @classmethod
    def from_graph(
        cls,
        model: nn.Module,
        graph: str | Graph,
        degree: int,
        seed: int = 0,
        exclude: str | Iterable[str] = (),
    ) -> Mask:
        """Each prunable weight keeps the edges of its own bipartite graph.

        An edge is one weight of a linear layer, one complete kernel slice (output channel, input
        channel within the group) of a convolution, or one complete quaternion.

        Args:
            model: any module.
            graph: name of a graph, such as "regular" or "xnet"; see `sparseq.graphs`.
            degree: edges per node; the graph determines on which side.
            seed: of the graphs; each parameter's graph depends on the seed and its name.
            exclude: as in `prunable_parameters`.

        Raises:
            ValueError: an unknown graph, or sizes or a degree that it does not support.

        Source: Stewart et al. 2023, "Data-free model pruning at initialization via expanders".
        """
        return cls(graph_masks(model, graph, degree, seed, exclude))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Mask:
        """Read a file written by `save`; ValueError if it is corrupt or not a mask file."""
        return cls(read_mask(path))

    def save(self, path: str | PathLike[str], overwrite: bool = False) -> None:
        """Write one bit per weight, with a checksum, as a safetensors file.

        Raises:
            FileExistsError: the file exists and `overwrite` is False.
        """
        write_mask(self._keep, path, overwrite)

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._keep:
            raise KeyError(f"the mask has no parameter {name!r}; it has {', '.join(self._keep)}")
        return self._keep[name]

    def __contains__(self, name: object) -> bool:
        return name in self._keep

    def __iter__(self) -> Iterator[str]:
        return iter(self._keep)

    def __len__(self) -> int:
        return len(self._keep)

    def __eq__(self, other: object) -> bool:
        """Same names and same entries; devices and the order of names are ignored."""
        if not isinstance(other, Mask):
            return NotImplemented
        same = self._keep.keys() == other._keep.keys()
        return same and all(torch.equal(a.cpu(), other[n].cpu()) for n, a in self._keep.items())

    __hash__ = None  # type: ignore[assignment]  # equality is by content, which is mutable

    def __and__(self, other: Mask) -> Mask:
        """Intersection; a parameter in only one of the masks keeps the entries of that mask."""
        if not isinstance(other, Mask):
            return NotImplemented
        joined = {**other._keep, **self._keep}
        for name in self._keep.keys() & other._keep.keys():
            first, second = self[name], other[name]
            same = first.shape == second.shape
            rule = f"must have the same shape in both masks, {tuple(first.shape)}"
            require(same, "Mask.__and__", f"{name!r}", rule, tuple(second.shape))
            joined[name] = first & second.to(first.device)
        return Mask(joined)

    def __repr__(self) -> str:
        counts = f"{self.kept} of {self.total} kept, density {self.density:.4g}"
        return f"Mask({len(self)} parameters, {counts})"

    @property
    def kept(self) -> int:
        """Number of weights kept."""
        return sum(int(keep.sum()) for keep in self._keep.values())

    @property
    def total(self) -> int:
        """Number of weights that the mask covers."""
        return sum(keep.numel() for keep in self._keep.values())

    @property
    def density(self) -> float:
        """kept / total; 1 for a mask of no weights."""
        return self.kept / self.total if self.total else 1.0

    def layer_densities(self) -> dict[str, float]:
        """Parameter name -> kept / total of that parameter."""
        return {name: Mask({name: keep}).density for name, keep in self._keep.items()}

    def to(self, device: torch.device | str) -> Mask:
        """The same mask on another device."""
        return Mask({name: keep.to(device) for name, keep in self._keep.items()})

    def check(self, model: nn.Module, op: str = "Mask.check") -> None:
        """ValueError, naming `op`, unless names and shapes match the model's parameters."""
        parameters = dict(model.named_parameters(remove_duplicate=False))
        check_masks(op, "mask", self._keep, parameters)

    @torch.no_grad()
    def apply_(self, model: nn.Module) -> nn.Module:
        """Zero the dropped weights once, in place (NaN too); returns the model."""
        self.check(model, "Mask.apply_")
        parameters = dict(model.named_parameters(remove_duplicate=False))
        for name, keep in self._keep.items():
            parameters[name].masked_fill_(~keep.to(parameters[name].device), 0)
        return model

    def enforce(self, model: nn.Module, optimizer: Optimizer | None = None) -> MaskHandle:
        """Keep dropped weights, their gradients and optimizer state exactly 0 from now on.

        Args:
            model: the model; its dropped weights are zeroed immediately.
            optimizer: the one that trains it. None: whichever optimizer steps these parameters.

        Returns:
            A handle; `remove()` or leaving its `with` block ends the enforcement. Deep copies
            and pickles of the model are not enforced.

        Raises:
            ValueError: a name or shape that is not the model's, or an optimizer that steps none
                of the masked parameters.
        """
        self.check(model, "Mask.enforce")
        return MaskHandle(self._keep, model, optimizer)
