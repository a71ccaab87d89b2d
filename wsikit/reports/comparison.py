"""A comparison of runs as a table, a figure and one page."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from wsikit.evaluation.comparison import Comparison, Difference
from wsikit.figures.forest import ForestRow, draw_forest
from wsikit.reports.crossval import template
from wsikit.reports.pictures import data_uri
from wsikit.reports.words import counted, interval_text, level_text, number_text, value_text
from wsikit.store.objects import write_atomic


@dataclass(frozen=True)
class DifferenceRow:
    """A pair of runs, in words.

    Attributes:
        pair: ``A minus B``.
        value: With its sign.
        interval: ``-0.02 to +0.08``.
        p: Two-sided.
        p_holm: After the correction.
        delong: p of DeLong's test, or "".
    """

    pair: str
    value: str
    interval: str
    p: str
    p_holm: str
    delong: str


def write_comparison(found: Comparison, out: str | Path) -> Path:
    """Write ``comparison.csv``, ``figures/differences.png`` and ``comparison.html`` into a folder.

    Returns:
        Path of ``comparison.html``, which holds everything it shows.
    """
    out = Path(out)
    (out / "figures").mkdir(parents=True, exist_ok=True)
    _table(found, out / "comparison.csv")
    rows = [
        ForestRow(f"{d.first} minus {d.second}", d.value, d.interval.low, d.interval.high) for d in found.differences
    ]
    figure, picture = draw_forest(rows, name=f"Difference of {found.metric}", reference=0.0), BytesIO()
    figure.savefig(picture, format="png")
    write_atomic(out / "figures" / "differences.png", picture.getvalue())
    page = template("comparison.html").render(
        title=f"{found.metric} of {counted(len(found.names), 'run')}",
        endpoint=found.endpoint,
        patients=counted(found.patients, "patient"),
        metric=found.metric,
        level=level_text(found.differences[0].interval),
        draws=found.differences[0].interval.draws,
        values=[
            (n, value_text(m), interval_text(m), tuning)
            for n, m, tuning in zip(found.names, found.values, found.tuning, strict=True)
        ],
        notes=found.notes,
        differences=[_row(d) for d in found.differences],
        has_delong=any(d.delong is not None for d in found.differences),
        held_out=found.held_out,
        picture=data_uri(picture.getvalue(), "png"),
        width_px=round(float(figure.get_figwidth()) * 92),
    )
    path = out / "comparison.html"
    write_atomic(path, page.encode())
    return path


def _table(found: Comparison, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        ends = ["low", "high", "level", "draws", "failed"]
        writer.writerow(["metric", "first", "second", "value", *ends, "p", "p_holm", "p_delong"])
        for name, m in zip(found.names, found.values, strict=True):
            assert m.interval is not None
            i = m.interval
            writer.writerow([m.name, name, "", m.value, i.low, i.high, i.level, i.draws, i.failed, "", "", ""])
        for d in found.differences:
            i = d.interval
            numbers = [d.value, i.low, i.high, i.level, i.draws, i.failed]
            delong = "" if d.delong is None else d.delong.p
            writer.writerow([found.metric, d.first, d.second, *numbers, d.p, d.p_holm, delong])


def _row(d: Difference) -> DifferenceRow:
    ends = " to ".join(number_text(v, 3, signed=True) for v in (d.interval.low, d.interval.high))
    delong = "" if d.delong is None else p_text(d.delong.p)
    least = 2 / (1 + d.interval.draws - d.interval.failed)
    return DifferenceRow(
        f"{d.first} minus {d.second}", number_text(d.value, 3, signed=True), ends, p_text(d.p, least),
        p_text(d.p_holm), delong,
    )  # fmt: skip


def p_text(p: float, least: float = 0.0) -> str:
    """A p value with two digits; at the least that so many resamples can show, "at most"."""
    if p <= least * (1 + 1e-9):
        return f"\N{LESS-THAN OR EQUAL TO} {p:.1g}"
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}"
