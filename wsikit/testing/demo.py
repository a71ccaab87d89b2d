"""The demo: a planted cohort from slides to a diagnosis and a survival curve, with the truth beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.evaluation.crossval import crossval
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.settings import load_experiment
from wsikit.extract.run import Progress, RunReport, extract_features
from wsikit.figures.tile_map import draw_tile_map, feature_colours, score_colours
from wsikit.metrics import roc_auc
from wsikit.reports.crossval import write_report
from wsikit.slides.open import open_slide
from wsikit.slides.tiling import TilingSpec
from wsikit.store.reader import FeatureStore, open_store
from wsikit.testing.cohort import CohortTruth, plant_cohort

ENCODERS = ("texture", "colour")
SPEC = TilingSpec(tile_px=128, target_mpp=0.5)
FOLDS = 5
_MODEL = """model: {aggregator: abmil, options: {embed_dim: 128, dropout: 0.5}}
training: {optimizer: sgd, scaling: whiten-patients, epochs: EPOCHS}
splits: {folds: FOLDS, inner_folds: INNER, seed: 0}
"""
CONFIGS = {
    "label": f"""# run it again: wsikit crossval label.yaml
name: Planted lesions, from the whole slide
cohort: cohort.csv
stores: features.zarr
encoder: texture
endpoint: {{kind: class, column: label, classes: [0, 1]}}
{_MODEL.replace("EPOCHS", "40")}out: label
""",
    "survival": f"""# run it again: wsikit crossval survival.yaml
name: Planted hazards, from the whole slide
cohort: cohort.csv
stores: features.zarr
encoder: texture
endpoint: {{kind: survival, time: time, event: event, unit: months}}
{_MODEL.replace("EPOCHS", "100")}out: survival
""",
}
TITLES = {"label": "diagnosis from the whole slide", "survival": "survival"}
SHOWN = 4
"""Slides in the picture."""


@dataclass(frozen=True)
class DemoReport:
    """What the demo leaves behind.

    Attributes:
        slides: Folder of the planted slides.
        run: The extraction.
        picture: Lesion map of a few slides.
        aucs: Of each encoder: area under the ROC curve of the linear probe on tiles, for each fold; NaN
            in a fold whose tiles are all of one kind (few patients).
        tiles: Tiles probed.
        lesion_share: Share of them that are lesion.
        studies: The cross-validations: of the label, and of survival.
        attention_auc: AUC of the label model's attention for planted lesion, against the other tiles of the same slide.
        ceilings: What the best possible model would reach in each study.
    """

    slides: Path
    run: RunReport
    picture: Path
    aucs: dict[str, npt.NDArray[np.float64]]
    tiles: int
    lesion_share: float
    studies: tuple[Study, ...]
    attention_auc: float
    ceilings: dict[str, float]


@dataclass(frozen=True)
class Study:
    """One cross-validation of the demo.

    Attributes:
        config: To run it again: ``wsikit crossval <config>``.
        result: What was found.
        report: To open.
    """

    config: Path
    result: CrossvalResult
    report: Path


def run_demo(
    out: Path,
    *,
    patients: int = 80,
    size_px: int = 2048,
    seed: int = 0,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> DemoReport:
    """Plant a cohort, extract its features, find the lesions, and cross-validate a diagnosis and survival.

    The probe is a logistic regression on the features of single tiles, fitted and tested on
    different patients (5 folds). A tile counts as lesion if at least half of it is; tiles that hold a
    little of it (between 5 and 50 %) are left out of the score.

    Args:
        out: Folder for everything; what an earlier demo left there is used again.
        patients: How many, one slide each.
        size_px: Side of the slides.
        seed: Of the cohort.
        workers: Processes of the extraction.
        progress: Told what the extraction does.
        say: Called with a line of text at each step.
    """
    out.mkdir(parents=True, exist_ok=True)
    say(f"1/5  planting {patients} slides of {size_px} px with known lesions ...")
    cohort = plant_cohort(out, patients=patients, seed=seed, size_px=size_px, processes=workers)
    say("2/5  extracting features ...")
    run = extract_features(
        out / "slides", out=out / "features.zarr", encoder=ENCODERS, spec=SPEC, workers=workers, progress=progress
    )
    say("3/5  predicting lesion from single tiles ...")
    store = open_store(run.store)
    found = {encoder: _probe(cohort, store, encoder) for encoder in ENCODERS}
    probe = found[ENCODERS[0]]
    picture = out / "lesion_map.png"
    _draw(picture, cohort, store, probe, {name: float(np.nanmean(f.aucs)) for name, f in found.items()})
    certain = probe.certain
    studies = []
    for number, (name, text) in enumerate(CONFIGS.items(), start=4):
        say(f"{number}/5  {TITLES[name]}: cross-validation ...")
        config = out / f"{name}.yaml"
        folds, inner = (5, 4) if patients >= 40 else (3, 2)
        config.write_text(text.replace("FOLDS", str(folds)).replace("INNER", str(inner)))
        result = crossval(load_experiment(config), workers=workers)
        studies.append(Study(config, result, write_report(result)))
    return DemoReport(
        out / "slides",
        run,
        picture,
        {name: f.aucs for name, f in found.items()},
        int(certain.sum()),
        float((probe.truth[certain] >= 0.5).mean()),
        tuple(studies),
        _attention_auc(cohort, studies[0].result),
        {"label": float(cohort.ceilings["label_auc"]["ceiling"]),
         "survival": float(cohort.ceilings["survival_c_index"]["ceiling"])},
    )  # fmt: skip


def _attention_auc(cohort: CohortTruth, result: CrossvalResult) -> float:
    """Whether attention goes to lesion: pairs of tiles of one slide, over the slides that have both kinds."""
    bags = Bags(result.cohort.slides, encoder=result.cohort.encoder)
    weight, lesion, slide = [], [], []
    for i, attention in enumerate(result.attention):
        truth = cohort.tile_truth(bags[i].slides[0].slide_id, bags[i].coords, float(SPEC.tile_px))
        certain = (truth >= 0.5) | (truth <= 0.05)
        if attention is not None and 0 < (truth[certain] >= 0.5).mean() < 1:
            weight.append(attention[certain])
            lesion.append(truth[certain] >= 0.5)
            slide.append(np.full(int(certain.sum()), i))
    return roc_auc(np.concatenate(weight), np.concatenate(lesion), groups=np.concatenate(slide))


@dataclass(frozen=True)
class _Probe:
    """Tiles of all slides, one after the other.

    Attributes:
        slide: (N,) index into the store's slides.
        x: (N, D) features.
        truth: (N,) share of the tile that is lesion.
        score: (N,) predicted probability, out of fold.
        aucs: One for each fold.
    """

    slide: npt.NDArray[np.int64]
    x: npt.NDArray[np.float32]
    truth: npt.NDArray[np.float64]
    score: npt.NDArray[np.float64]
    aucs: npt.NDArray[np.float64]

    @property
    def certain(self) -> npt.NDArray[np.bool_]:
        """Tiles that count: lesion by half or more, or hardly at all."""
        return (self.truth >= 0.5) | (self.truth <= 0.05)


def _probe(cohort: CohortTruth, store: FeatureStore, encoder: str) -> _Probe:
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    bags = [store.bag(slide_id, encoder=encoder) for slide_id in store.slide_ids]
    side = float(SPEC.tile_px)  # planted slides have the target's resolution
    truth = np.concatenate([cohort.tile_truth(bag.slide_id, bag.coords, side) for bag in bags])
    slide = np.concatenate([np.full(len(bag), i) for i, bag in enumerate(bags)])
    x = np.concatenate([bag.x for bag in bags]).astype(np.float32)
    score, aucs = np.full(len(x), np.nan), []
    certain = (truth >= 0.5) | (truth <= 0.05)
    patients = np.array([dict(zip(cohort.slide_ids, cohort.patient_ids, strict=True))[b.slide_id] for b in bags])[slide]
    for train, test in GroupKFold(FOLDS).split(x, groups=patients):
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        used, asked = train[certain[train]], test[certain[test]]
        model.fit(x[used], truth[used] >= 0.5)
        score[test] = model.predict_proba(x[test])[:, 1]
        positive = truth[asked] >= 0.5
        aucs.append(roc_auc_score(positive, score[asked]) if positive.any() and not positive.all() else np.nan)
    return _Probe(slide, x, truth, score, np.array(aucs))


def _draw(path: Path, cohort: CohortTruth, store: FeatureStore, probe: _Probe, aucs: dict[str, float]) -> None:
    """A row for each of a few slides: the slide, the truth, the prediction, the features in colour."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

    colours = feature_colours(probe.x)
    shown = _spread(np.array([cohort.slide(name).lesion_fraction for name in store.slide_ids]))
    figure = Figure(figsize=(12, 3 * len(shown) + 1), layout="constrained")
    axes = figure.subplots(len(shown), 4, squeeze=False)
    for row, index in zip(axes, shown, strict=True):
        name, mine = store.slide_ids[index], probe.slide == index
        with open_slide(cohort.slide_path(name)) as slide:
            rgb, scale = slide.thumbnail(600), 600 / max(slide.size)
        boxes = np.concatenate([store.bag(name, encoder=ENCODERS[0]).coords, np.full((mine.sum(), 2), SPEC.tile_px)], 1)
        boxes = boxes * scale
        truth, score = score_colours(probe.truth[mine]), score_colours(probe.score[mine])
        pictures = (
            ("", rgb),
            ("lesion, planted", draw_tile_map(rgb, boxes, truth)),
            (f"lesion, predicted by {ENCODERS[0]}", draw_tile_map(rgb, boxes, score)),
            ("features in colour", draw_tile_map(rgb, boxes, colours[mine], opacity=0.8)),
        )
        for axis, (title, picture) in zip(row, pictures, strict=True):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.set_title(title if index == shown[0] else "", fontsize=11)
        row[0].set_ylabel(f"{name}\n{100 * cohort.slide(name).lesion_fraction:.0f} % lesion", fontsize=11)
    scale_bar = ScalarMappable(Normalize(0, 1), "RdYlBu_r")
    figure.colorbar(scale_bar, ax=axes[:, 1:3], location="bottom", shrink=0.5, aspect=40, pad=0.01,
                    label="share of the tile (planted), probability (predicted)")  # fmt: skip
    words = ", ".join(f"{name} {auc:.3f}" for name, auc in aucs.items())
    figure.suptitle(f"Lesion from single tiles, patients apart: mean AUC of {FOLDS} folds: {words}", fontsize=13)
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=100)


def _spread(values: npt.NDArray[Any]) -> Sequence[int]:
    """Indices of a few values from the lowest to the highest."""
    order = np.argsort(values, kind="stable")
    return [int(order[i]) for i in np.unique(np.linspace(0, len(values) - 1, SHOWN).round().astype(int))]
