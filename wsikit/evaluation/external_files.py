"""The tables and the record of an external validation."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

from wsikit.evaluation.assessment import unlike_columns
from wsikit.evaluation.external_result import ExternalResult
from wsikit.evaluation.run_files import METRIC_COLUMNS, SUBGROUPS, metric_cells, truth_columns, write_subgroups
from wsikit.store.objects import write_atomic


def write_external(result: ExternalResult) -> None:
    """Write ``predictions.csv``, ``metrics.csv``, ``subgroups.csv`` and ``external.json`` into ``result.out``.

    ``wsikit compare --external`` takes such a folder, too.
    """
    result.out.mkdir(parents=True, exist_ok=True)
    _predictions(result, result.out / "predictions.csv")
    rows: list[list[object]] = [["model", *METRIC_COLUMNS]]
    for model in (result.model, result.recalibrated):
        rows += [] if model is None else [[model.name, *metric_cells(m)] for m in model.metrics]
    _write(result.out / "metrics.csv", rows)
    write_subgroups(result.out / SUBGROUPS, result.subgroups)
    write_atomic(result.out / "external.json", (json.dumps(result.manifest, indent=2) + "\n").encode())


def _predictions(result: ExternalResult, path: Path) -> None:
    cohort, extra = result.cohort, {}
    if any(result.calls):
        extra["risk_group" if cohort.endpoint.kind == "survival" else "predicted_class"] = list(result.calls)
    stated = result.columns[-1]
    if result.absolute is not None:
        stated = f"risk_at_{result.absolute.horizon:.4g}_{result.absolute.unit}"
        extra[stated] = [repr(float(v)) for v in result.absolute.risk]
    if result.recalibrated is not None:  # of two classes the second, of survival the risk
        extra[f"recalibrated_{stated}"] = [repr(float(v)) for v in result.recalibrated.prediction[:, -1]]
    extra |= {} if result.unlike is None else unlike_columns(result.unlike)
    extra |= {} if result.sets is None else result.sets.columns()
    truth = truth_columns(cohort.target)
    rows: list[list[object]] = [["patient_id", "slides", *truth, *result.columns, *extra]]
    for i, patient in enumerate(cohort.patients):
        slides = " ".join(s.slide_id for s in cohort.slides[i])
        numbers = [repr(float(v)) for v in result.model.prediction[i]]
        rows.append([patient, slides, *(c[i] for c in truth.values()), *numbers, *(c[i] for c in extra.values())])
    _write(path, rows)


def _write(path: Path, rows: list[list[object]]) -> None:
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomic(path, text.getvalue().encode())
