"""Conformal prediction: sets of classes and intervals that miss the truth in a stated share of like patients.

What is compared is how badly a label fits a patient, among patients whom the judging models have not
seen. With one model that is split-conformal prediction. With the models of several folds each fold's
models judge the new patient and their own held-out patients (cross-conformal), so that every training
patient counts and no model judges one that it was fitted on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError

Numbers = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

_CELLS = 2**22  # patients x held-out ones compared at once: 32 MB
_ROUNDING = 1e-9  # 1 - 0.9 is a little less than 0.1


@dataclass(frozen=True)
class HeldOutClasses:
    """What some models say of patients whom they have not seen, and of new ones.

    Attributes:
        probability: (n, C) of the held-out patients.
        label: (n,) int64, their classes.
        new: (P, C) of the new patients, by the same models.
    """

    probability: Numbers
    label: Labels
    new: Numbers


@dataclass(frozen=True)
class HeldOutNumbers:
    """The same where a number is predicted.

    Attributes:
        prediction: (n,) of the held-out patients.
        value: (n,) their numbers.
        new: (P,) of the new patients.
    """

    prediction: Numbers
    value: Numbers
    new: Numbers


def class_p_values(folds: Sequence[HeldOutClasses], *, by_class: bool = False) -> Numbers:
    r"""How well each class fits each new patient, (P, C), beside patients whose class is known.

    p_c = (1 + number of held-out patients whose true class fits no better than class c fits the new one)
    / (1 + number of held-out patients), the fit being the probability of the class. A class whose p is at
    most 1 - coverage is left out of the set.

    Args:
        folds: One for each fold, or a single one.
        by_class: Compare with held-out patients of class c only. A set then holds the true class of each class's
            patients in the stated share, not only of all together, and needs as many patients of each class.

    Raises:
        ConfigError: No fold, or arrays that do not fit together.

    Example:
        >>> known, label = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8]]), np.array([0, 1, 1])
        >>> class_p_values([HeldOutClasses(known, label, np.array([[0.7, 0.3]]))]).tolist()
        [[0.5, 0.25]]

    Reference:
        Vovk, 2015, Ann Math Artif Intell 74:9-28, doi:10.1007/s10472-013-9368-4 (cross-conformal); the score:
        Sadinle, Lei and Wasserman, 2019, J Am Stat Assoc 114(525):223-234, arXiv:1609.00451; by class: their section
        2.1, and Vovk, 2013, Mach Learn 92:349-376 (label-conditional).
    """
    if not folds:
        raise ConfigError("no held-out patients to compare with")
    patients, classes = folds[0].new.shape
    worse, known = np.zeros((patients, classes)), np.zeros(classes)
    for fold in folds:
        if fold.probability.shape != (len(fold.label), classes) or fold.new.shape != (patients, classes):
            raise ConfigError(
                f"held-out probabilities {fold.probability.shape}, labels {fold.label.shape} and new ones "
                f"{fold.new.shape} do not fit together; expected (n, {classes}), (n,) and ({patients}, {classes})"
            )
        fit = fold.probability[np.arange(len(fold.label)), fold.label]  # (n,) of the true class
        for number in range(classes):
            among = np.sort(fit[fold.label == number] if by_class else fit)
            worse[:, number] += np.searchsorted(among, fold.new[:, number], side="right")
            known[number] += len(among)
    return np.asarray((1 + worse) / (1 + known))


def class_sets(p: Numbers, coverage: float) -> npt.NDArray[np.bool_]:
    """The classes that cannot be left out, (P, C) bool, from p values (P, C).

    A set may be empty (no class fits: the patient is unlike those of the training) or hold all classes
    (nothing can be said at this coverage).

    Example:
        >>> class_sets(np.array([[0.75, 0.25], [0.05, 0.02]]), 0.9).tolist()
        [[True, True], [False, False]]
    """
    return np.asarray(p > 1 - coverage + _ROUNDING)


def number_intervals(folds: Sequence[HeldOutNumbers], coverage: float) -> Numbers:
    r"""Intervals (P, 2) of the new patients' numbers by CV+.

    Of all held-out patients i, with errors R_i and the predictions y_i of the new patient by the models of
    i's fold: from the floor((1 - coverage)(n + 1))-th smallest y_i - R_i to the ceil(coverage (n + 1))-th
    smallest y_i + R_i.

    Raises:
        ConfigError: No fold, or too few held-out patients.

    Example:
        >>> one = HeldOutNumbers(np.zeros(9), np.array([1, -2, 3, -4, 5, -6, 7, -8, 9.0]), np.array([10.0]))
        >>> number_intervals([one], 0.9).tolist()
        [[1.0, 19.0]]

    Reference:
        Barber, Candes, Ramdas and Tibshirani, 2021, Ann Stat 49(1):486-507, doi:10.1214/20-AOS1965, section 3.
    """
    errors = [np.abs(fold.value - fold.prediction) for fold in folds]
    check_enough([sum(map(len, errors))], coverage, ["all"])
    n = sum(map(len, errors))
    low_at = int(np.floor((1 - coverage) * (n + 1) + _ROUNDING)) - 1
    high_at = min(int(np.ceil(coverage * (n + 1) - _ROUNDING)), n) - 1
    patients, found = len(folds[0].new), []
    for start in range(0, patients, max(1, _CELLS // n)):
        rows = slice(start, start + max(1, _CELLS // n))
        low = np.concatenate([f.new[rows, None] - e for f, e in zip(folds, errors, strict=True)], 1)  # (rows, n)
        high = np.concatenate([f.new[rows, None] + e for f, e in zip(folds, errors, strict=True)], 1)
        found.append(np.stack([np.sort(low, 1)[:, low_at], np.sort(high, 1)[:, high_at]], 1))
    return np.concatenate(found)


def check_enough(known: Sequence[int], coverage: float, names: Sequence[str]) -> None:
    """Refuse a coverage that so many held-out patients cannot show: nothing could ever be left out of a set.

    Args:
        known: Held-out patients that each comparison has.
        coverage: Asked for.
        names: Of the comparisons, for the message: classes, or "all".

    Raises:
        ConfigError: A coverage that is not between 0 and 1, or too few patients.
    """
    if not 0 < coverage < 1:
        raise ConfigError(f"coverage is {coverage:g}, expected a share between 0 and 1, as 0.9 is")
    needed = int(np.ceil(1 / (1 - coverage) - 1 - _ROUNDING))
    for count, name in zip(known, names, strict=True):
        if count < needed:
            of = "" if name == "all" else f" of class {name!r}"
            most = f"at most {1 - 1 / (count + 1):.2g}" if count else "no coverage"
            raise ConfigError(
                f"coverage {coverage:g} needs {needed} held-out patients{of}, the models have {count}, which allow "
                f"{most}; ask for less, or name the models of all folds"
            )
