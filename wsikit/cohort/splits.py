"""Which patients train, which stop the training, which are reported on: decided once, saved, hashed."""

from __future__ import annotations

import csv
import json
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.table import PATIENT, Cohort
from wsikit.config import config_hash
from wsikit.errors import ConfigError

ROLES = ("train", "validation", "test")


@dataclass(frozen=True)
class Fold:
    """Roles of patients in one fold; each tuple sorted, no patient in two.

    Attributes:
        train: Fits the weights.
        validation: Stops the training and sets thresholds.
        test: Is reported; nothing is fitted on it.
    """

    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


@dataclass(frozen=True)
class Splits:
    """Folds whose test patients do not overlap.

    Attributes:
        folds: In order.
        made: How: a seed and the strata, or the file they came from.
    """

    folds: tuple[Fold, ...]
    made: Mapping[str, object]

    @property
    def hash(self) -> str:
        """sha256 of who has which role in which fold, 64 hex digits."""
        return config_hash([{role: sorted(getattr(fold, role)) for role in ROLES} for fold in self.folds])

    def test_fold(self, patients: Sequence[str]) -> npt.NDArray[np.int64]:
        """The fold in which each patient is tested, (P,) int64; -1 where in none."""
        of = {patient: i for i, fold in enumerate(self.folds) for patient in fold.test}
        return np.array([of.get(p, -1) for p in patients], np.int64)


def make_splits(cohort: Cohort, *, folds: int = 5, seed: int = 0, validation: float = 0.2) -> Splits:
    """Folds of patients, stratified by the outcome: class; event and tertile of time; quintile of a number;
    rarest label; of several outcomes the main one, patients without it a stratum of their own.

    Args:
        cohort: Its patients.
        folds: How many; each patient is tested in one.
        seed: Of the shuffling.
        validation: Share of a fold's other patients that stop its training.

    Raises:
        ConfigError: Too few patients of a class, or too few events, for so many folds.
    """
    if folds < 2 or not 0 < validation < 0.9:
        raise ConfigError(f"splits: {folds} folds and a validation share of {validation}, expected >= 2 and 0 to 0.9")
    strata, name = strata_of(cohort.target, folds)
    patients = np.array(cohort.patients)
    made = []
    for number, (rest, test) in enumerate(_deal(strata, folds, seed)):
        train, stop = hold_out(rest, cohort.target, strata, share=validation, seed=seed * 1000 + number)
        made.append(Fold(*(tuple(sorted(patients[rows].tolist())) for rows in (train, stop, test))))
    return Splits(tuple(made), {"folds": folds, "seed": seed, "validation": validation, "stratified by": name})


def inner_splits(
    fold: Fold, cohort: Cohort, *, parts: int, seed: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Positions of the training and the validation patients of each model of a fold.

    With one part they are the fold's own roles. With more, the patients of both roles are dealt into
    so many parts, stratified by the outcome, and each watches the model that the others train.

    Raises:
        ConfigError: Too few patients, of a class or with an event, for so many parts.
    """
    if parts == 1:
        return [(cohort.index(fold.train), cohort.index(fold.validation))]
    rest = np.sort(np.concatenate([cohort.index(fold.train), cohort.index(fold.validation)]))
    strata = _inner_strata(cohort.target.take(rest), parts)
    return [(rest[train], rest[watch]) for train, watch in _deal(strata, parts, seed)]


def _inner_strata(target: Target, parts: int) -> npt.NDArray[np.int64]:
    if isinstance(target, SeveralTarget):
        return target.codes(_inner_strata(target.parts[target.main].target, parts))
    if not isinstance(target, SurvivalTarget):
        return strata_of(target, parts)[0]
    if target.event.sum() < parts:
        raise ConfigError(
            f"{int(target.event.sum())} events outside a fold, expected one for each of {parts} inner folds"
        )
    return target.event.astype(np.int64)


def hold_out(
    rest: npt.NDArray[np.int64], target: Target, strata: npt.NDArray[np.int64] | None, *, share: float, seed: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Positions of those who train and of those who watch, stratified as finely as their number allows.

    Args:
        rest: (n,) positions of the patients to divide, at least two.
        target: Of all patients.
        strata: (P,) of all patients; where they are too fine (or None), class or event alone is used.
        share: Of ``rest`` that watch; at least one, and where it can be one of each class.
        seed: Of the drawing.
    """
    from sklearn.model_selection import train_test_split

    held = min(math.ceil(share * len(rest)), len(rest) - 1)
    by = None if strata is None or not _fits(strata[rest], held) else strata[rest]
    coarse = _coarse(target)
    if by is None and coarse is not None:
        enough = max(held, len(np.unique(coarse[rest])))
        if _fits(coarse[rest], enough):
            by, held = coarse[rest], enough
    train, stop = train_test_split(rest, test_size=held, random_state=seed, stratify=by)
    return train, stop


def _coarse(target: Target) -> npt.NDArray[np.int64] | None:
    """Class or event of each patient, (P,); None where there is neither."""
    if isinstance(target, SeveralTarget):
        mine = _coarse(target.parts[target.main].target)
        return None if mine is None else target.codes(mine)
    if isinstance(target, ClassTarget):
        return target.label
    return target.event.astype(np.int64) if isinstance(target, SurvivalTarget) else None


def _deal(
    strata: npt.NDArray[np.int64], folds: int, seed: int
) -> list[tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Positions outside and inside each fold."""
    from sklearn.model_selection import StratifiedKFold

    with warnings.catch_warnings():
        # Of a stratum smaller than the folds, such as three censored patients: it is dealt as far as it goes.
        warnings.filterwarnings("ignore", "The least populated class", UserWarning)
        return list(StratifiedKFold(folds, shuffle=True, random_state=seed).split(strata, strata))


def strata_of(target: Target, folds: int) -> tuple[npt.NDArray[np.int64], str]:
    """Strata (P,) int64 of patients, and what they are.

    Raises:
        ConfigError: A stratum that cannot be in every fold.
    """
    if isinstance(target, SeveralTarget):
        strata, name = strata_of(target.parts[target.main].target, folds)
        return target.codes(strata), f"{target.names[target.main]}: {name}"
    if isinstance(target, ClassTarget):
        counts = np.bincount(target.label, minlength=len(target.classes))
        for name, n in zip(target.classes, counts.tolist(), strict=True):
            if n < folds:
                raise ConfigError(
                    f"class {name!r} has {n} patients, expected at least {folds}, one for each fold "
                    f"(found: {dict(zip(target.classes, counts.tolist(), strict=True))}); "
                    "use fewer folds or more patients"
                )
        return target.label, "class"
    if isinstance(target, SurvivalTarget):
        events = int(target.event.sum())
        if events < 2 * folds:
            raise ConfigError(
                f"{events} events among {len(target)} patients, expected at least {2 * folds}, two for each fold"
            )
        strata = np.zeros(len(target), np.int64)
        for event in (False, True):
            mine = np.flatnonzero(target.event == event)
            parts = max(1, min(3, len(mine) // folds))
            strata[mine] = 3 * event + _rank_bins(target.time[mine], parts)
        return strata, "event and tertile of time"
    if isinstance(target, LabelsTarget):
        for name, yes, no in target.counts():
            if min(yes, no) < folds:
                raise ConfigError(
                    f"label {name!r}: {yes} patients have it and {no} have it not, expected at least {folds} of both, "
                    "one for each fold; use fewer folds, or leave the label out"
                )
        return target.rarest(), "rarest label"
    if len(target) < 2 * folds:
        raise ConfigError(f"{len(target)} patients, expected at least {2 * folds} for {folds} folds")
    return _rank_bins(target.value, max(1, min(5, len(target) // folds))), "quintile of the value"


def _rank_bins(values: npt.NDArray[np.float64], parts: int) -> npt.NDArray[np.int64]:
    rank = np.argsort(np.argsort(values, kind="stable"), kind="stable")
    return np.asarray(rank * parts // max(1, len(values)), np.int64)


def _fits(strata: npt.NDArray[np.int64], held: int) -> bool:
    """Whether ``held`` patients can be drawn so that every stratum has some on both sides."""
    counts = np.unique(strata, return_counts=True)[1]
    return bool(counts.min() >= 2 and len(counts) <= held <= len(strata) - len(counts))


def save_splits(splits: Splits, path: str | PathLike[str]) -> None:
    """Write ``path`` (CSV: patient_id, fold_0, fold_1, ... with train / validation / test), and its hash beside it."""
    path = Path(path)
    role = [{p: name for name in ROLES for p in getattr(fold, name)} for fold in splits.folds]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([PATIENT, *(f"fold_{i}" for i in range(len(role)))])
        for patient in sorted(set().union(*role)):
            writer.writerow([patient, *(r.get(patient, "") for r in role)])
    beside = {"hash": splits.hash, "made": dict(splits.made)}
    path.with_suffix(".json").write_text(json.dumps(beside, indent=2) + "\n")


def check_splits(splits: Splits, cohort: Cohort) -> None:
    """Refuse splits that do not fit a cohort, or in which a patient is used twice.

    Raises:
        ConfigError: A patient with two roles in a fold, one tested in two folds, one of the cohort
            in no test fold, an empty role, or one class only in a role.
    """
    known = set(cohort.patients)
    tested: dict[str, int] = {}
    for i, fold in enumerate(splits.folds):
        for a, b in (("train", "validation"), ("train", "test"), ("validation", "test")):
            both = sorted(set(getattr(fold, a)) & set(getattr(fold, b)))
            if both:
                raise ConfigError(f"splits, fold {i}: patient {both[0]!r} is in {a} and in {b}")
        for patient in fold.test:
            if patient in tested:
                raise ConfigError(
                    f"splits: patient {patient!r} is tested in folds {tested[patient]} and {i}; results are "
                    "pooled over patients, so each has to be tested once (run such files fold by fold)"
                )
            tested[patient] = i
        for role in ROLES:
            found = [p for p in getattr(fold, role) if p in known]
            if not found:
                raise ConfigError(f"splits, fold {i}: no patient of the cohort is in {role}")
            if role == "train":
                _check_learnable(cohort.target.take(cohort.index(found)), f"splits, fold {i}")
    left = sorted(known - set(tested))
    if left:
        raise ConfigError(
            f"splits: {len(left)} of {len(known)} patients are tested in no fold: {', '.join(left[:5])}; "
            "add them, or take them out of the table"
        )


def _check_learnable(train: Target, where: str) -> None:
    """Refuse training patients of one class only, or without any who has an outcome known."""
    if isinstance(train, ClassTarget):
        labels = np.unique(train.label)
        if len(labels) < len(train.classes):
            missing = [c for j, c in enumerate(train.classes) if j not in labels]
            raise ConfigError(f"{where}: no patient of class {missing[0]!r} in train")
    if isinstance(train, LabelsTarget):
        for name, yes, no in train.counts():
            if not yes or not no:
                raise ConfigError(f"{where}: label {name!r} is the same for all patients of train with a known one")
    if isinstance(train, SeveralTarget):
        check_known(train, where)
        for name, part in zip(train.names, train.parts, strict=True):
            _check_learnable(part.target, f"{where}, outcome {name!r}")


def check_known(train: SeveralTarget, where: str) -> None:
    """Refuse training patients none of whom has one of the outcomes known, or, of survival, an event.

    Args:
        train: Of the training patients.
        where: For the message: which fold and model.

    Raises:
        ConfigError: The outcome is named.
    """
    for name, part in zip(train.names, train.parts, strict=True):
        if not part.known.any():
            raise ConfigError(
                f"{where}: none of {len(train)} training patients has outcome {name!r} known: it cannot be learnt "
                f"there; use fewer folds, deal them by it (stratify: {name}), or leave it out"
            )
        if isinstance(part.target, SurvivalTarget) and not part.target.event.any():
            raise ConfigError(
                f"{where}: none of {len(part.target)} training patients with outcome {name!r} has the event; use "
                f"fewer folds, or deal them by it (stratify: {name})"
            )


def within(splits: Splits, cohort: Cohort) -> Splits:
    """The same splits without patients that the cohort does not have (excluded ones)."""
    known = set(cohort.patients)
    folds = tuple(
        Fold(*(tuple(p for p in getattr(fold, role) if p in known) for role in ROLES)) for fold in splits.folds
    )
    return Splits(folds, splits.made)


def describe(target: Target) -> str:
    """A group of patients in a few words: ``40 patients: 21 x 0, 19 x 1``."""
    n = f"{len(target)} patients"
    if isinstance(target, ClassTarget):
        counts = np.bincount(target.label, minlength=len(target.classes)).tolist()
        return f"{n}: " + ", ".join(f"{c} x {name}" for name, c in zip(target.classes, counts, strict=True))
    if isinstance(target, SurvivalTarget):
        return f"{n}: {int(target.event.sum())} events, median time {np.median(target.time):.3g} {target.unit}"
    if isinstance(target, LabelsTarget):
        return f"{n}: " + ", ".join(f"{name} {yes} of {yes + no}" for name, yes, no in target.counts())
    if isinstance(target, SeveralTarget):
        each = [f"{name}: {describe(part.target)}" for name, part in zip(target.names, target.parts, strict=True)]
        return "; ".join([n, *each])
    return f"{n}: mean {target.value.mean():.3g}"
