"""Predict slides or patients with trained models, from the slide files or from a store."""

from __future__ import annotations

import csv
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.table import PATIENT, SLIDE, CohortSlide, read_rows
from wsikit.config import differences
from wsikit.errors import ConfigError
from wsikit.evaluation.assessment import ClassSets, Intervals, check_coverage, sets_of, unlike_columns, unlikeness_of
from wsikit.evaluation.attribution import Map
from wsikit.evaluation.ensemble import CALLED, calls_of, load_models, mean_of, predictions_of
from wsikit.evaluation.known import Group, groups_of
from wsikit.evaluation.outliers import Unlikeness
from wsikit.evaluation.tile_maps import MapKind, check_map_kind, mean_map
from wsikit.extract.inputs import collect_slides
from wsikit.extract.run import Progress, RunReport, extract_features
from wsikit.extract.settings import EncoderSettings
from wsikit.slides.tiling import TilingSpec
from wsikit.slides.tissue_mask import SEGMENTERS
from wsikit.store.places import ObjectPath, StorePath, place_of
from wsikit.store.reader import FeatureStore, open_store
from wsikit.training.bundle import Bundle

Say = Callable[[str], None]


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
        tile_map: (N,) the map that was asked for: the attention, or another; None where there is none.
        assessed: Name and value of each further column: how unlike the training patients it is, and what the prediction
            set or interval is.
    """

    patient_id: str
    slides: tuple[CohortSlide, ...]
    values: npt.NDArray[np.float64]
    calls: Mapping[str, str]
    attention: npt.NDArray[np.float32] | None
    tiles: int
    tile_map: npt.NDArray[np.floating[Any]] | None
    assessed: Mapping[str, str] = field(default_factory=dict)

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
        map_kind: What the predictions' maps show.
        unlike: How unlike the training patients they are; None where the models do not know.
        sets: Prediction sets or intervals, where asked for.
    """

    columns: tuple[str, ...]
    predictions: tuple[Prediction, ...]
    table: Path
    skipped: Mapping[str, str]
    run: RunReport | None
    map_kind: MapKind
    unlike: Unlikeness | None = None
    sets: ClassSets | Intervals | None = None


def predict_slides(
    target: str | PathLike[str] | ObjectPath,
    models: str | PathLike[str],
    *,
    out: str | PathLike[str],
    patients: str | PathLike[str] | None = None,
    coverage: float | None = None,
    by_class: bool = False,
    weights: str | None = None,
    workers: int | None = None,
    tile_map: str = "attention",
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> PredictionReport:
    """Predict with one model, or with the mean of all models in a folder.

    Each patient also gets ``ood_score``, its distance from the training patients in units of their median,
    ``ood_share``, the share of them that were as far, and ``ood_flag`` (see
    :func:`~wsikit.evaluation.outliers.unlikeness`), and with ``coverage`` a conformal prediction set. Both compare
    with patients: where slides are predicted one by one though patients have several, they hold approximately.

    A slide file or a folder of slides is tiled and encoded first, in the way that the models were
    trained with (into ``out/features.zarr``, where a second call finds it). A store is used as it is,
    and refused where its tiles or its encoder are others than the models'.

    Args:
        target: Slide file, folder of slides, or store (which may lie in a bucket, ``s3://bucket/cohort.zarr``).
        models: A bundle, or a folder of bundles as ``wsikit crossval`` leaves in ``models/``.
        out: Folder for ``predictions.csv`` and new features.
        patients: CSV with slide_id and patient_id, to predict patients with several slides; default:
            every slide on its own.
        coverage: Also give sets of classes (of a number: intervals) that hold the truth for this share of patients who
            are like those of the training.
        by_class: For this share of each class's patients, too.
        weights: Weights of the encoder, for encoders that have some.
        workers: Processes of the extraction.
        tile_map: Which map of the tiles each prediction gets: ``attention``, or ``rollout`` of the models that have it.
        progress: Told what the extraction does.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: No models, models that do not belong together or have no such map, features of another encoder or
            tiling, or nothing to predict.
    """
    bundles = load_models(Path(models))
    kind = check_map_kind(tile_map, bundles[0].model.aggregator.card.name)
    first = bundles[0]
    out, target = Path(out), place_of(target)
    if coverage is not None:
        check_coverage(first.endpoint, bundles, coverage, by_class=by_class)
    elif by_class:
        raise ConfigError("by_class says for whom a coverage holds, and none is given; add coverage, as 0.9")
    store, paths, run = features_of(
        target, first, out=out, weights=weights, workers=workers, progress=progress, say=say
    )
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
    each, attention = predictions_of(bundles, bags)
    values = mean_of(each)
    maps = attention if kind == "attention" else _maps(bundles, bags, kind)
    folds = _folds(bundles, coverage is not None, say)
    unlike = unlikeness_of(folds, bags.means())
    sets = (
        None if coverage is None or folds is None else sets_of(folds, first.endpoint, each, coverage, by_class=by_class)
    )
    columns = ({} if unlike is None else unlike_columns(unlike)) | ({} if sets is None else sets.columns())
    found = tuple(
        Prediction(
            patient, slides, values[i], calls_of(bundles, values[i]), attention[i], len(bags[i]), maps[i],
            {name: column[i] for name, column in columns.items()},
        )
        for i, (patient, slides) in enumerate(groups.items())
    )  # fmt: skip
    table = out / "predictions.csv"
    _write(table, first, found)
    return PredictionReport(first.task.columns, found, table, skipped, run, kind, unlike, sets)


def features_of(
    target: StorePath,
    bundle: Bundle,
    *,
    out: Path,
    weights: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> tuple[FeatureStore, dict[str, Path], RunReport | None]:
    """The store of a target, where it is slides made first as the model was trained with; their files; the extraction.

    Raises:
        ConfigError: No such target, or a store that was tiled otherwise.
    """
    out.mkdir(parents=True, exist_ok=True)
    run: RunReport | None = None
    paths: dict[str, Path] = {}
    if isinstance(target, ObjectPath) or (target / "zarr.json").is_file():
        store = open_store(target)
    else:
        if not target.exists():
            raise ConfigError(f"{target}: no such slide, folder or store")
        say("extracting features as the models were trained with ...")
        run = _extract(target, bundle, out / "features.zarr", weights, workers, progress)
        store = open_store(out / "features.zarr")
        paths = {entry.slide_id: entry.path for entry in collect_slides([target])}
    _check_tiling(store, bundle)
    return store, paths, run


def _folds(bundles: Sequence[Bundle], needed: bool, say: Say) -> list[Group] | None:
    """The models by fold; where they cannot be told apart, and need not be, a word instead."""
    try:
        folds = groups_of(bundles)
    except ConfigError as e:
        if needed:
            raise
        say(f"no ood_share: {e}")
        return None
    if folds is None:
        say("no ood_share: the models do not know whom they have not seen; repeat 'wsikit crossval', which keeps them")
    return folds


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


def _maps(bundles: Sequence[Bundle], bags: Bags, kind: MapKind) -> list[Map | None]:
    graph = bundles[0].model.graph
    return [mean_map(bundles, bags.batch([i], graph=graph), kind=kind) for i in range(len(bags))]


def _without_ending(column: str) -> str:
    """The outcome of a column with its calls."""
    for ending in CALLED.values():
        column = column.removesuffix(f"_{ending}")
    return column


def _write(path: Path, bundle: Bundle, predictions: Sequence[Prediction]) -> None:
    more = list(predictions[0].assessed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([PATIENT, "slides", "tiles", *bundle.task.columns, *predictions[0].calls, *more])
        for p in predictions:
            slides = " ".join(s.slide_id for s in p.slides)
            row = [p.patient_id, slides, p.tiles, *(repr(float(v)) for v in p.values)]
            writer.writerow([*row, *p.calls.values(), *p.assessed.values()])
