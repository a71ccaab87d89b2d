"""The pictures of a tuning, one for each study."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

from wsikit.evaluation.tuning.run import TuneResult
from wsikit.figures.tuning import TuningHistory, draw_tuning
from wsikit.store.objects import write_atomic


def write_tuning_figures(found: TuneResult) -> list[Path]:
    """Write ``figures/tuning-<study>.png`` for every study of a tuning, below ``found.out``.

    Returns:
        Their paths, in the order of the studies.
    """
    folder = found.out / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    space = {} if found.best.tuned is None else found.best.tuned.space
    log = tuple(_short(name) for name, given in space.items() if isinstance(given, dict) and given.get("log"))
    paths = []
    for study in found.studies:
        value = [float("nan") if t.score is None else found.sign * t.score for t in study.trials]
        settings = {_short(name): [t.values[name] for t in study.trials] for name in space}
        words = f"{study.title}: trial {study.best.number + 1} of {len(study.trials)} was chosen"
        figure = draw_tuning(
            TuningHistory(value, settings, log, words),
            name=f"{found.metric} on inner folds",
            lower=found.sign < 0,
        )
        written = BytesIO()
        figure.savefig(written, format="png")
        path = folder / f"tuning-{study.title.replace(', ', '-').replace(' ', '-')}.png"
        write_atomic(path, written.getvalue())
        paths.append(path)
    return paths


def _short(name: str) -> str:
    return name.rpartition(".")[2]
