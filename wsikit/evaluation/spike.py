"""Would an effect have been found? One is planted in the real features, and the whole cross-validation runs on it.

Half of the patients, at random, get a known direction added to a small share of their tiles. Who they are is the
label. What the model then reaches says what this cohort, these features and this recipe are able to see.
"""

from __future__ import annotations

import shutil
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassLabel, ClassTarget
from wsikit.cohort.splits import make_splits
from wsikit.cohort.table import Cohort
from wsikit.config import config_hash
from wsikit.errors import ConfigError
from wsikit.evaluation.cohort import cohort_of
from wsikit.evaluation.members import fit_members, plan_members
from wsikit.evaluation.result import Metric
from wsikit.evaluation.scores import metrics_of
from wsikit.evaluation.settings import Experiment
from wsikit.processes import cores
from wsikit.store.places import StorePath
from wsikit.store.reader import FeatureStore
from wsikit.tasks.task import create_task

Say = Callable[[str], None]
Vector = npt.NDArray[np.float32]

SHARES = (0.01, 0.03, 0.10)
STRENGTH = 3.0
SAMPLE = 64
"""Tiles of a patient that the direction and the spread are taken from, evenly spaced."""

LABEL = ClassLabel("planted effect", ("without", "with"))


class SpikedStore(FeatureStore):
    """A store whose features have something added when they are read; on disk nothing changes.

    Args:
        path: Of the real store.
        vector: (D,) what is added to a tile.
        share: Of each slide's usable tiles that get it, at least one; 0 for none.
        slides: Which slides.
        seed: Of the tiles.
    """

    def __init__(self, path: StorePath, *, vector: Vector, share: float, slides: frozenset[str], seed: int) -> None:
        super().__init__(path)
        self.vector, self.share, self.spiked, self.seed = vector, share, slides, seed

    def rows_of(self, slide_id: str, tiles: int) -> npt.NDArray[np.int64]:
        """Rows of a slide's bag that get it, rising."""
        if slide_id not in self.spiked or not self.share:
            return np.empty(0, np.int64)
        rng = np.random.default_rng([self.seed, zlib.crc32(slide_id.encode())])  # the same in every process
        return np.sort(rng.choice(tiles, max(1, round(self.share * tiles)), replace=False))

    def values(
        self,
        slide_id: str,
        *,
        encoder: str,
        rows: Sequence[int] | None = None,
        out: npt.NDArray[np.float16] | None = None,
    ) -> npt.NDArray[np.float16]:
        """As those of the real store, with the vector added."""
        x = super().values(slide_id, encoder=encoder, rows=rows, out=out)
        if slide_id not in self.spiked or not self.share:
            return x
        usable = self.tiles(slide_id, encoder=encoder).rows
        chosen = usable[self.rows_of(slide_id, len(usable))]
        mine = np.isin(np.arange(len(x)) if rows is None else np.asarray(rows), chosen)
        x[mine] = (x[mine].astype(np.float32) + self.vector).astype(x.dtype)
        return x

    def digest(self, slide_id: str, encoder: str) -> str:
        """Another one than the real store's: a model that was fitted on other features is not this one."""
        added = [self.vector.tolist(), self.share, slide_id in self.spiked, self.seed]
        return config_hash([super().digest(slide_id, encoder), added])


@dataclass(frozen=True)
class Spiked:
    """What one share came to.

    Attributes:
        share: Of the tiles of half of the patients, as asked; 0 is the control.
        actual: The same as it came to: a slide with few tiles has at least one changed.
        tiles: Changed in a slide, in the middle.
        metric: AUC, pooled over pairs of one fold (and one seed), with its interval over patients.
    """

    share: float
    actual: float
    tiles: float
    metric: Metric

    @property
    def found(self) -> bool:
        """Whether the whole interval lies above chance."""
        return self.metric.interval is not None and self.metric.interval.low > 0.5


@dataclass(frozen=True)
class SpikeResult:
    """What a planted effect came to, share by share.

    Attributes:
        spikes: The control first, then by share.
        strength: Of the effect, in spreads of all tiles along its direction.
        norm_share: Length of what is added, in lengths of a typical tile's deviation from the mean.
        patients: How many.
        folds: Of each cross-validation.
        models: Fitted for each fold.
        seeds: Cross-validations of each share, each with other labels, another direction and other tiles.
        model: Name.
    """

    spikes: tuple[Spiked, ...]
    strength: float
    norm_share: float
    patients: int
    folds: int
    models: int
    seeds: int
    model: str

    def sentences(self) -> list[str]:
        """What may be said: which share would have been found, which not, and the control."""
        lines = []
        for one in self.spikes[1:]:
            verb = "would have been found" if one.found else "would not have been told from chance"
            size = f"{self.strength:g} spreads in {100 * one.actual:.2g} % of the tiles"
            lines.append(f"An effect of {size} {verb} ({_number(one)}).")
        control = self.spikes[0]
        what = "which is a false alarm: look for a leak" if control.found else "as it should be"
        return [*lines, f"Without any effect: {_number(control)}, {what}."]


def _number(one: Spiked) -> str:
    metric = one.metric
    if metric.value is None or metric.interval is None:
        return f"AUC not defined: {metric.note}"
    return f"AUC {metric.value:.2f} ({metric.interval.low:.2f} to {metric.interval.high:.2f})"


def spike(
    experiment: Experiment,
    *,
    shares: Sequence[float] = SHARES,
    strength: float = STRENGTH,
    folds: int = 3,
    inner_folds: int = 1,
    seeds: int = 1,
    workers: int | None = None,
    say: Say = lambda line: None,
) -> SpikeResult:
    """Plant effects of several sizes, and cross-validate the experiment's model on each, and on none.

    The direction is a random combination of the tiles' own deviations from the mean, so that it points where tiles
    really differ; the length is ``strength`` times the spread of all tiles along it. Each share has the same patients,
    direction and folds. The experiment's own outcome is not used, only its patients, features and model: labels are
    drawn at random, half of the patients each.

    Args:
        experiment: From :func:`wsikit.evaluation.settings.load_experiment`; its folds are replaced.
        shares: Of the tiles of a patient with the effect, above 0 and up to 1.
        strength: In spreads; 3 moves a tile to where about one in 700 lies by itself (of a normal distribution).
        folds: Fewer than a study's, to keep it to minutes.
        inner_folds: Models for each fold.
        seeds: Repetitions with other labels, direction and tiles; predictions of all are measured together.
        workers: Processes; default one for each core.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: Shares or numbers out of range, or anything about the cohort.
    """
    bad = [share for share in shares if not 0 < share <= 1]
    if bad or not shares or len(set(shares)) < len(shares):
        raise ConfigError(f"share={list(shares)}; expected different shares of the tiles, above 0 and up to 1")
    if strength <= 0 or seeds < 1:
        raise ConfigError(f"strength={strength:g}, seeds={seeds}; expected a strength above 0 and at least one seed")
    cohort = cohort_of(experiment)
    splits = experiment.splits.model_copy(update={"folds": folds, "inner_folds": inner_folds, "file": None})
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    sample = _sample(bags)
    planned = []
    for number in range(seeds):
        rng = np.random.default_rng([experiment.splits.seed, number, 5])
        label = rng.permutation(np.arange(len(cohort)) % 2)
        planned.append((label.astype(np.int64), _direction(sample, strength, rng)))
    sizes = np.concatenate([np.bincount(bags[i].slide) for i in range(len(bags))])  # tiles of each slide
    spikes: list[Spiked] = []
    for share in (0.0, *sorted(shares)):
        parts = []
        for number, (label, vector) in enumerate(planned):
            shown = _spiked(cohort, label, vector, share, number)
            run = experiment.model_copy(
                update={"splits": splits, "out": experiment.out / "spike" / f"{share:g}-{number}"}
            )
            parts.append(_cross_validated(run, shown, workers))
        prediction, label_, fold = (np.concatenate([part[i] for part in parts]) for i in range(3))
        target = ClassTarget(label_.astype(np.int64), LABEL.classes)
        # a fold of one seed is a fold of its own: its models are others
        fold = fold + folds * np.repeat(np.arange(seeds), len(cohort))
        task = create_task(LABEL, target)
        metric = metrics_of(task, prediction, target, fold, experiment.evaluation)[0]
        changed = np.maximum(1, np.rint(share * sizes)) if share else np.zeros(len(sizes))
        spikes.append(Spiked(share, float((changed / sizes).mean()), float(np.median(changed)), metric))
        say(f"  {100 * spikes[-1].actual:.2g} % of the tiles: {_number(spikes[-1])}")
    deviation = float(np.linalg.norm((sample - sample.mean(0)).astype(np.float64), axis=1).mean())
    length = float(np.mean([np.linalg.norm(vector) for _, vector in planned]))
    name = f"{experiment.model.aggregator} on {experiment.encoder}"
    return SpikeResult(tuple(spikes), strength, length / deviation, len(cohort), folds, inner_folds, seeds, name)


def _sample(bags: Bags) -> Vector:
    """Some tiles of every patient, (n, D) float32."""
    parts = []
    for i in range(len(bags)):
        x = bags[i].x
        parts.append(x[np.linspace(0, len(x) - 1, min(len(x), SAMPLE)).astype(int)].astype(np.float32))
    return np.concatenate(parts)


def _direction(sample: Vector, strength: float, rng: np.random.Generator) -> Vector:
    """What is added to a tile, (D,): a random direction with the tiles' own covariance, ``strength`` spreads long."""
    away = (sample - sample.mean(0)).astype(np.float64)
    direction = rng.normal(size=len(away)) @ away
    length = float(np.linalg.norm(direction))
    if not length:
        raise ConfigError("all tiles have the same features; there is no spread to measure an effect in")
    direction /= length
    return np.asarray(direction * strength * float((away @ direction).std()), np.float32)


def _spiked(cohort: Cohort, label: npt.NDArray[np.int64], vector: Vector, share: float, seed: int) -> Cohort:
    """The cohort with random labels and the effect in its features."""
    sick = frozenset(s.slide_id for i, mine in enumerate(cohort.slides) if label[i] for s in mine)
    stores: dict[str, SpikedStore] = {}
    for mine in cohort.slides:
        for slide in mine:
            where = str(slide.store.path)
            if where not in stores:
                stores[where] = SpikedStore(slide.store.path, vector=vector, share=share, slides=sick, seed=seed)
    slides = tuple(tuple(replace(s, store=stores[str(s.store.path)]) for s in mine) for mine in cohort.slides)
    return replace(cohort, slides=slides, endpoint=LABEL, target=ClassTarget(label, LABEL.classes))


def _cross_validated(
    experiment: Experiment, cohort: Cohort, workers: int | None
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Out-of-fold predictions (P, 2), labels (P,) and folds (P,); the models are not kept."""
    wanted = experiment.splits
    splits = make_splits(cohort, folds=wanted.folds, seed=wanted.seed, validation=wanted.validation)
    jobs = plan_members(experiment, cohort, splits)
    total, times = np.zeros((len(cohort), 2)), np.zeros((len(cohort), 1))
    try:
        for member in fit_members(experiment, cohort, jobs, facts={}, workers=min(workers or cores(), len(jobs))):
            total[member.job.test] += member.prediction
            times[member.job.test] += 1
    finally:
        shutil.rmtree(experiment.out, ignore_errors=True)
    assert isinstance(cohort.target, ClassTarget)
    return total / times, cohort.target.label, splits.test_fold(cohort.patients)
