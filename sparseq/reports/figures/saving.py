"""`save_figure`: the one place where figures are written to disk."""

from __future__ import annotations

import io
import os
from pathlib import Path

from matplotlib.figure import Figure

from sparseq.files.atomic import write_atomically


def save_figure(
    figure: Figure, path: str | os.PathLike[str], overwrite: bool = False, dpi: int = 200
) -> Path:
    """Write a figure atomically; the suffix of the path is the format (png, pdf, svg).

    Args:
        figure: any matplotlib figure.
        path: the file; without a suffix, a png is written.
        overwrite: replace an existing file.
        dpi: dots per inch, for raster formats.

    Returns:
        The path.

    Raises:
        FileExistsError: the file exists and `overwrite` is False.
        ValueError: a suffix that matplotlib does not support.
    """
    path, data = Path(path), io.BytesIO()
    figure.savefig(data, format=path.suffix.lstrip(".") or "png", dpi=dpi)
    write_atomically(path, data.getvalue(), overwrite=overwrite)
    return path
