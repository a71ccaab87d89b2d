"""The page of a spike-in control: what would have been found."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np

from wsikit.evaluation.spike import SpikeResult
from wsikit.figures.detection_curve import draw_detection_curve
from wsikit.reports.crossval import template
from wsikit.reports.pictures import data_uri
from wsikit.reports.words import counted
from wsikit.store.objects import write_atomic


def write_spike(result: SpikeResult, path: Path, *, title: str) -> Path:
    """Write a spike-in control as one HTML file that holds all it shows.

    Args:
        result: From :func:`wsikit.evaluation.spike.spike`.
        path: The file.
        title: Of the page.

    Returns:
        The path.

    Example:
        >>> write_spike(spike(load_experiment("config.yaml")), Path("spike.html"), title="Colon")  # doctest: +SKIP
    """
    ends = [(s.metric.value, s.metric.interval.low, s.metric.interval.high) for s in result.spikes if s.metric.interval]
    source = ""
    if len(ends) == len(result.spikes):  # the AUC of each is defined
        numbers = np.array(ends, np.float64)
        shares = [one.actual for one in result.spikes[1:]]
        control = (float(numbers[0, 0]), float(numbers[0, 1]), float(numbers[0, 2]))
        figure = draw_detection_curve(shares, numbers[1:, 0], numbers[1:, 1:], control=control)
        written = BytesIO()
        figure.savefig(written, format="png")
        source = data_uri(written.getvalue(), "png")
    seeds = f", {result.seeds} times with other labels, directions and tiles" if result.seeds > 1 else ""
    page = template("spike.html").render(
        title=title,
        about=f"{result.model}, {counted(result.patients, 'patient')}",
        sentences=result.sentences(),
        source=source,
        made=(
            f"Half of the patients were drawn at random; a direction in feature space was added to that share of their "
            f"tiles (in the middle {', '.join(f'{one.tiles:g}' for one in result.spikes[1:])} tiles of a slide). It is "
            f"{result.strength:g} times the spread of all tiles along that direction, {result.norm_share:.2f} times a "
            f"typical tile's distance from the mean. Each share is a whole cross-validation: "
            f"{counted(result.folds, 'fold')}, {counted(result.models, 'model')} each{seeds}."
        ),
    )
    write_atomic(path, page.encode())
    return path
