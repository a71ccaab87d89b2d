"""Predict slides or patients with trained models, from the slide files or from a store."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassLabel, ClassTarget, Endpoint, Ordinal, Survival
from wsikit.cohort.several_outcomes import Several
from wsikit.cohort.table import PATIENT, SLIDE, CohortSlide, read_rows
from wsikit.config import differences
from wsikit.errors import ConfigError
from wsikit.extract.inputs import collect_slides
from wsikit.extract.run import Progress, RunReport, extract_features
from wsikit.extract.settings import EncoderSettings
from wsikit.slides.tiling import TilingSpec
from wsikit.slides.tissue_mask import SEGMENTERS
from wsikit.store.places import ObjectPath, place_of
from wsikit.store.reader import FeatureStore, open_store
from wsikit.tasks.classification import called
from wsikit.tasks.several import SeveralTask
from wsikit.training.bundle import Bundle, load_bundle
from wsikit.training.fit import predict

Say = Callable[[str], None]
CALLED = {"class": "predicted_class", "ordinal": "predicted_class", "survival": "risk_group"}
"""Of each kind of endpoint the column with what a patient is called."""


@dataclass(frozen=True)
class Prediction:
    """What models say of one patient (or of one slide, where there is no table of patients).

    Attributes:
        patient_id: Who.
        slides: The slides that were looked at.
        values: (K,) mean over the models, in the columns of the endpoint.
        calls: The class or risk group by the models' own thresholds, "" where they have none, by its column: one, or
            one for each of several outcomes.
        attention: (N,) over the tiles of the slides one after the other, or None.
        tiles: N.
    """

    patient_id: str
    slides: tuple[CohortSlide, ...]
    values: npt.NDArray[np.float64]
    calls: Mapping[str, str]
    attention: npt.NDArray[np.float32] | None
    tiles: int

    @property
    def call(self) -> str:
        """The call; of several outcomes all of them, as ``subtype: A, survival: low``."""
        if len(self.calls) < 2:
            return "".join(self.calls.values())
        told = {_without_ending(column): call for column, call in self.calls.items()}
        return ", ".join(f"{name}: {call}" for name, call in told.items() if call)


@dataclass(frozen=True)
class PredictionReport:
    """What a call of :func:`predict_slides` found.

    Attributes:
        columns: Names of the values.
        predictions: In order of ``patient_id``.
        table: The CSV that was written.
        skipped: Slides that could not be predicted, each with its reason.
        run: The extraction, where there was one.
    """

    columns: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    table: Path
    skipped: Mapping[str, str]
    run: RunReport | None


def predict_slides(
    target: str | PathLike[str] | ObjectPath,
    models: str | PathLike[str],
    *,
    out: str | PathLike[str],
    patients: str | PathLike[str] | None = None,
    weights: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> PredictionReport:
    """Predict with one model, or with the mean of all models in a folder.

    A slide file or a folder of slides is tiled and encoded first, in the way that the models were
    trained with (into ``out/features.zarr``, where a second call finds it). A store is used as it is,
    and refused where its tiles or its encoder are others than the models'.

    Args:
        target: Slide file, folder of slides, or store (which may lie in a bucket, ``s3://bucket/cohort.zarr``).
        models: A bundle, or a folder of bundles as ``wsikit crossval`` leaves in ``models/``.
        out: Folder for ``predictions.csv`` and new features.
        patients: CSV with slide_id and patient_id, to predict patients with several slides; default:
            every slide on its own.
        weights: Weights of the encoder, for encoders that have some.
        workers: Processes of the extraction.
        progress: Told what the extraction does.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: No models, models that do not belong together, features of another encoder or
            tiling, or nothing to predict.
    """
    bundles = _load(Path(models))
    first = bundles[0]
    out, target = Path(out), place_of(target)
    out.mkdir(parents=True, exist_ok=True)
    run: RunReport | None = None
    paths: dict[str, Path] = {}
    if isinstance(target, ObjectPath) or (target / "zarr.json").is_file():
        store = open_store(target)
    else:
        if not target.exists():
            raise ConfigError(f"{target}: no such slide, folder or store")
        say("extracting features as the models were trained with ...")
        run = _extract(target, first, out / "features.zarr", weights, workers, progress)
        store = open_store(out / "features.zarr")
        paths = {entry.slide_id: entry.path for entry in collect_slides([target])}
    _check_tiling(store, first)
    key = str(first.facts["encoder"]["key"])
    wanted = sorted(paths) if paths else store.slide_ids
    groups, skipped = _groups(store, wanted, key, first, paths, patients)
    if run is not None:
        skipped |= {o.slide_id: f"{o.state}: {o.reason}" for o in run.outcomes if not o.ok and o.slide_id in skipped}
    if not groups:
        listed = "; ".join(f"{name}: {why}" for name, why in list(skipped.items())[:5])
        raise ConfigError(f"{target}: no slide can be predicted ({listed or 'it is empty'})")
    say(f"predicting {len(groups)} {'patients' if patients else 'slides'} with {len(bundles)} models ...")
    bags = Bags(list(groups.values()), encoder=key)
    values, attention = _mean(bundles, bags)
    found = tuple(
        Prediction(patient, slides, values[i], _calls(bundles, values[i]), attention[i], len(bags[i]))
        for i, (patient, slides) in enumerate(groups.items())
    )
    table = out / "predictions.csv"
    _write(table, first, found)
    return PredictionReport(first.task.columns, found, table, skipped, run)


def _load(models: Path) -> list[Bundle]:
    files = sorted(models.glob("*.safetensors")) if models.is_dir() else [models]
    if not files:
        raise ConfigError(f"{models}: no *.safetensors in this folder; name the models/ that 'wsikit crossval' wrote")
    bundles = [load_bundle(file) for file in files]
    for file, bundle in zip(files, bundles, strict=True):
        for name in ("configuration-hash", "encoder"):
            mine, other = bundles[0].facts[name], bundle.facts[name]
            if name == "encoder":
                mine, other = mine["key"], other["key"]
            if mine != other or bundle.endpoint != bundles[0].endpoint:
                raise ConfigError(f"{files[0]} and {file} do not belong together ({name} or endpoint differ); name one")
    return bundles


def _extract(
    target: Path, bundle: Bundle, store: Path, weights: str | None, workers: int | None, progress: Progress | None
) -> RunReport:
    encoder, configuration = bundle.facts["encoder"], bundle.facts["configuration"]
    tissue = configuration["tissue"]
    parts = encoder.get("parts", [encoder])
    if weights is not None and len(parts) > 1:
        raise ConfigError(
            f"the models see {len(parts)} encoders, and one file of weights was named; extract with 'wsikit extract' "
            "first, encoder by encoder, and predict from the store"
        )
    # what the store records of a method may be more than its options; the hash is compared afterwards
    known = inspect.signature(SEGMENTERS[tissue["method"]].build).parameters
    return extract_features(
        [target],
        out=store,
        encoder=[
            EncoderSettings(
                one["card"]["name"],
                weights,
                batch_size=one["run"]["batch_size"],
                threads=one["run"]["threads"],
                stain=one.get("identity", {}).get("stain", {}).get("method"),
            )
            for one in parts
        ],
        spec=TilingSpec(**configuration["tiling"], resampler=configuration["resampling"]["coarser"]),
        tissue=tissue["method"],
        tissue_options={name: value for name, value in tissue["parameters"].items() if name in known},
        workers=workers,
        progress=progress,
    )


def _check_tiling(store: FeatureStore, bundle: Bundle) -> None:
    if store.attributes["configuration-hash"] != bundle.facts["configuration-hash"]:
        lines = differences(bundle.facts["configuration"], store.configuration)
        shown = "; ".join(line.replace("stored", "models").replace("asked for", "store") for line in lines)
        raise ConfigError(f"store {store.path} was tiled otherwise than the models were trained with: {shown}")


def _groups(
    store: FeatureStore,
    wanted: Sequence[str],
    key: str,
    bundle: Bundle,
    paths: Mapping[str, Path],
    patients: str | PathLike[str] | None,
) -> tuple[dict[str, tuple[CohortSlide, ...]], dict[str, str]]:
    """Slides of each patient, and the slides that cannot be used with the reason."""
    rows: list[dict[str, Any]] = [{SLIDE: s, PATIENT: s} for s in wanted]
    here = Path()
    if patients is not None:
        rows, here = list(read_rows(Path(patients), needed=(SLIDE, PATIENT))), Path(patients).parent
    skipped: dict[str, str] = {}
    found: dict[str, list[CohortSlide]] = {}
    known = set(store.slide_ids)
    for row in rows:
        name = row[SLIDE]
        if name not in known:
            skipped[name] = "not in the store"
        elif not store.has(name, key):
            card = bundle.facts["encoder"]["card"]["name"]
            skipped[name] = f"no features {key} ({card}; the store has {', '.join(store.keys(name)) or 'none'})"
        elif not store.finished(name, key):
            skipped[name] = "features not finished"
        elif not (store.status(name, encoder=key) == 0).any():
            skipped[name] = "no usable tile"
        else:
            path = paths.get(name) or (here / row["path"] if row.get("path") else None)
            found.setdefault(row[PATIENT], []).append(CohortSlide(name, store, path))
    return {p: tuple(sorted(found[p], key=lambda s: s.slide_id)) for p in sorted(found)}, skipped


def _mean(
    bundles: Sequence[Bundle], bags: Bags
) -> tuple[npt.NDArray[np.float64], list[npt.NDArray[np.float32] | None]]:
    rows = np.arange(len(bags))
    total: npt.NDArray[np.float64] | None = None
    attention: list[npt.NDArray[np.float32] | None] = []
    for bundle in bundles:
        values, weights = predict(bundle.model, bundle.task, bags, rows, with_attention=True)
        total = values if total is None else total + values
        if not attention:
            attention = weights
        else:
            attention = [a if a is None or w is None else a + w for a, w in zip(attention, weights, strict=True)]
    assert total is not None
    n = np.float32(len(bundles))
    return total / len(bundles), [None if a is None else a / n for a in attention]


def _calls(bundles: Sequence[Bundle], values: npt.NDArray[np.float64]) -> dict[str, str]:
    """Column and text of every call."""
    endpoint, task = bundles[0].endpoint, bundles[0].task
    cuts = [b.facts["thresholds"] for b in bundles]
    if not isinstance(endpoint, Several):
        return {CALLED[endpoint.kind]: _call(endpoint, cuts, values)} if endpoint.kind in CALLED else {}
    assert isinstance(task, SeveralTask)
    found = {}
    for (name, one), columns in zip(endpoint.outcomes, task.columns_of, strict=True):
        if one.kind in CALLED:
            found[f"{name}_{CALLED[one.kind]}"] = _call(one, [c.get(name, {}) for c in cuts], values[columns])
    return found


def _call(endpoint: Endpoint, cuts: Sequence[Mapping[str, float]], values: npt.NDArray[np.float64]) -> str:
    if isinstance(endpoint, ClassLabel):
        if len(endpoint.classes) > 2 or not all("probability" in c for c in cuts):
            return _called(endpoint, values) if len(endpoint.classes) > 2 else ""
        return endpoint.classes[int(values[1] > np.mean([c["probability"] for c in cuts]))]
    if isinstance(endpoint, Survival) and all("log_risk" in c for c in cuts):
        return "high" if values[0] > np.mean([c["log_risk"] for c in cuts]) else "low"
    return ""


def _without_ending(column: str) -> str:
    """The outcome of a column with its calls."""
    for ending in CALLED.values():
        column = column.removesuffix(f"_{ending}")
    return column


def _called(endpoint: ClassLabel, values: npt.NDArray[np.float64]) -> str:
    asked = ClassTarget(np.zeros(1, np.int64), endpoint.classes, isinstance(endpoint, Ordinal))
    return endpoint.classes[int(called(values[None], asked)[0])]


def _write(path: Path, bundle: Bundle, predictions: Sequence[Prediction]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([PATIENT, "slides", "tiles", *bundle.task.columns, *predictions[0].calls])
        for p in predictions:
            slides = " ".join(s.slide_id for s in p.slides)
            row = [p.patient_id, slides, p.tiles, *(repr(float(v)) for v in p.values)]
            writer.writerow([*row, *p.calls.values()])
