"""What the planted patients look like."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prepare import Patient

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_examples(cohort: Sequence[Patient], *, pairs: int = 4) -> Figure:
    """Some pairs, one patient above the other: equal tiles, above anywhere, below in nests; the rare kind is dark."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap
    from matplotlib.figure import Figure

    colours = ListedColormap(["#7A1F5C", "#F3D9E4", "#E7C3D5", "#F8EAF0"])
    figure = Figure(figsize=(2 * pairs, 4.6), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    for i, axes in enumerate(figure.subplots(2, pairs).T.ravel()):
        patient = cohort[i]
        axes.imshow(patient.kind, cmap=colours, vmin=0, vmax=3)
        axes.set_title(
            f"{'nested' if patient.nested else 'scattered'}, {int((patient.kind == 0).sum())} rare", fontsize=9
        )
        axes.set_xticks([])
        axes.set_yticks([])
    figure.tight_layout()
    return figure
