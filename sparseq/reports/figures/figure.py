"""What every figure shares: its canvas, its colors, and how it reaches the disk."""

from __future__ import annotations

import io
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from sparseq.files.model_file import write_atomically

# Okabe and Ito (2008): told apart by color-blind readers, and in grey by their lightness
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
INK, QUIET, FAINT = "#222222", "#777777", "#DDDDDD"


def new_figure(width: float = 7.2, height: float = 4.5) -> tuple[Figure, Axes]:
    """A figure of our own canvas (no pyplot, no global state), sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(INK)
    axes.tick_params(colors=INK, labelsize=9)
    axes.grid(color=FAINT, linewidth=0.7)
    axes.set_axisbelow(True)
    return figure, axes


def save_figure(figure: Figure, path: str | Path, overwrite: bool = False, dpi: int = 200) -> Path:
    """Write a figure; the format is the path's ending (png, pdf, svg).

    Raises:
        FileExistsError: the file is there and `overwrite` is off.
        ValueError: an ending matplotlib cannot write.
    """
    path, data = Path(path), io.BytesIO()
    figure.savefig(data, format=path.suffix.lstrip(".") or "png", dpi=dpi)
    write_atomically(path, data.getvalue(), overwrite=overwrite)
    return path
