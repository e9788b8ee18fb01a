"""L5: matplotlib figures, returned and saved, never shown."""

from sparseq.viz.accuracy import Curve, accuracy_figure
from sparseq.viz.figure import save_figure

__all__ = ["Curve", "accuracy_figure", "save_figure"]
