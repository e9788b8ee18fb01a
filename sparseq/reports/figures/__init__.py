"""L5: matplotlib figures, returned and saved, never shown."""

from sparseq.reports.figures.accuracy import Curve, accuracy_figure
from sparseq.reports.figures.figure import save_figure

__all__ = ["Curve", "accuracy_figure", "save_figure"]
