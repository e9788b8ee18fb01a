"""Figures, returned and saved, never shown.

To add one, register a function in a new file here and import that file below.
"""

from sparseq.reports.figures import accuracy
from sparseq.reports.figures.accuracy import Curve, accuracy_figure
from sparseq.reports.figures.catalog import FIGURES
from sparseq.reports.figures.saving import save_figure

__all__ = ["FIGURES", "Curve", "accuracy", "accuracy_figure", "save_figure"]
