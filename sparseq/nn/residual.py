"""A residual block."""

from __future__ import annotations

from torch import Tensor, nn

from sparseq.nn.layer_types import layer_type


def _empty() -> Residual:
    """A placeholder whose parts are added by name afterwards."""
    return Residual(nn.Identity(), nn.Identity())


@layer_type(arguments=lambda block: {}, build=_empty)
class Residual(nn.Module):
    """relu(main(x) + shortcut(x)), a block of a residual network.

    Args:
        main, shortcut: modules whose outputs have the same shape.

    Source: He et al. 2016, "Deep residual learning for image recognition", equations 1 and 2.
    """

    def __init__(self, main: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.main, self.shortcut, self.relu = main, shortcut, nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """relu(main(x) + shortcut(x))."""
        y: Tensor = self.relu(self.main(x) + self.shortcut(x))
        return y
