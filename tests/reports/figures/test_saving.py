"""Saving figures: formats, overwriting, and nothing half-written."""

from __future__ import annotations

import pytest

from sparseq.reports.figures import save_figure
from sparseq.reports.figures.canvas import new_figure


@pytest.fixture
def figure():
    drawn, _ = new_figure()
    return drawn


def test_writes_a_png_and_overwrites_only_on_request(figure, tmp_path):
    path = tmp_path / "figure.png"
    assert save_figure(figure, path) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(FileExistsError):
        save_figure(figure, path)
    save_figure(figure, path, overwrite=True)


def test_an_unknown_suffix_is_rejected(figure, tmp_path):
    with pytest.raises(ValueError, match="xyz"):
        save_figure(figure, tmp_path / "figure.xyz")
    assert list(tmp_path.iterdir()) == []
