"""The lines of the comparison: AUCs, paired differences to one of them, a table and a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from wsikit.evaluation.comparison import Difference, compare_runs, holm
from wsikit.evaluation.result import CrossvalResult, ModelResult, Round
from wsikit.evaluation.run_files import StoredRun
from wsikit.figures.forest import ForestRow, draw_forest

HEAD = ("aggregator", "sees", "AUC", "minus {}", "p (Holm)", "attention", "gradient x input")


@dataclass(frozen=True)
class Row:
    """A line of the table: a model's predictions, its AUC, that less the reference's, and what it says of tiles."""

    run: StoredRun
    point: ForestRow
    gap: Difference | None
    sees: str = ""
    tiles: tuple[str, str] = ("", "")


def shown(row: ForestRow) -> str:
    """0.758 [0.678, 0.834]."""
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]"


def stored(result: CrossvalResult, name: str, of: ModelResult) -> StoredRun:
    """A model of the run, or one of its baselines, as a run of its own."""
    cohort = result.cohort
    once = (Round(of.prediction, result.fold),)
    return StoredRun(name, result.out, cohort.endpoint, cohort.patients, cohort.target, once, False)


def row_of(result: CrossvalResult, name: str, of: ModelResult, reference: StoredRun | None) -> Row:
    """A model's line; ``reference`` on the same resamples of patients."""
    run, metric = stored(result, name, of), of.metrics[0]
    gap = None if reference is None else compare_runs([run, reference]).differences[0]
    return Row(run, ForestRow(name, metric.value, metric.interval.low, metric.interval.high), gap)


def table(rows: Sequence[Row]) -> str:
    """Markdown, in the order given; p by Holm for all of these differences."""
    gaps = [row.gap for row in rows if row.gap is not None]
    corrected = iter(holm([gap.p for gap in gaps]))
    head = [cell.format(gaps[0].second if gaps else "") for cell in HEAD]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    for row in rows:
        against = ("", "")
        if row.gap is not None:
            ends = row.gap.interval
            against = (f"{row.gap.value:+.3f} [{ends.low:+.3f}, {ends.high:+.3f}]", f"{next(corrected):.2f}")
        lines.append(f"| {' | '.join([row.point.name, row.sees, shown(row.point), *against, *row.tiles])} |")
    return "\n".join(lines) + "\n"


def write(folder: Path, rows: Sequence[Row]) -> None:
    """``table.md`` and ``forest.png``: aggregators in the order of their names, which is no ranking, then baselines."""
    (folder / "table.md").write_text(table(rows), encoding="utf-8")
    title = f"Carcinoma or none: out-of-fold AUC of {len(rows[0].run.patients)} patients"
    picture = draw_forest([row.point for row in rows], name="AUC, 95 % over patients", reference=0.5, title=title)
    picture.savefig(folder / "forest.png")
