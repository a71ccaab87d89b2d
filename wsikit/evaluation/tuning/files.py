"""The files of a tuning: every trial as a table, and the chosen settings as a configuration."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.tuning.plan import StudyPlan
from wsikit.evaluation.tuning.space import Space
from wsikit.evaluation.tuning.study import Trial
from wsikit.store.objects import write_atomic

TRIALS, BEST = "trials.csv", "best.yaml"


def write_trials(out: Path, studies: Sequence[tuple[StudyPlan, Sequence[Trial]]], space: Space, sign: int) -> None:
    """Write ``trials.csv``: study, trial, value, whether it is the study's best so far, its settings, fits, epochs.

    Nothing in it depends on the clock: equal settings give equal bytes.
    """
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["study", "trial", "value", "best", *space, "fits", "epochs", "problem"])
    for plan, trials in studies:
        scored = [t.score for t in trials if t.score is not None]
        top = next((t.number for t in trials if scored and t.score == max(scored)), None)
        for t in trials:
            if not t.finished:
                continue
            value = "" if t.score is None else repr(sign * t.score)
            settings = [t.values[name] for name in space]
            cost = [int(t.cost["fits"]), int(t.cost["epochs"])]
            writer.writerow([plan.name, t.number + 1, value, int(t.number == top), *settings, *cost, t.problem])
    write_atomic(out / TRIALS, text.getvalue().encode())


def write_best(best: Experiment, path: Path) -> None:
    """Write an experiment as YAML, for ``crossval`` and ``train``: what differs from the defaults, paths relative."""
    import yaml

    dropped = {"cohort", "stores", "out", "name", "tune", "tuned"}
    values: dict[str, Any] = {
        "name": best.name,
        "cohort": _beside(best.cohort, path),
        "stores": [_beside(s, path) if isinstance(s, Path) else str(s) for s in best.stores],
        **best.model_dump(mode="json", exclude=dropped, exclude_defaults=True),
        "out": "crossval",
    }
    if best.model.init is not None:
        values["model"]["init"] = _beside(best.model.init, path)
    if best.splits.file is not None:
        values["splits"]["file"] = _beside(best.splits.file, path)
    if best.tuned is not None:
        values["tuned"] = best.tuned.model_dump(mode="json")
    write_atomic(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True).encode())


def _beside(place: Path, file: Path) -> str:
    """A path relative to a file's folder; absolute where it is on another drive."""
    try:
        return Path(os.path.relpath(place, file.parent)).as_posix()
    except ValueError:
        return str(place.resolve())
