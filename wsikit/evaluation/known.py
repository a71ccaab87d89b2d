"""What models know of the patients they were made from: written into their bundles, and read for new patients.

A bundle holds no table that joins a patient to an outcome. Who trained it stands there as hashes, sorted by
themselves; outcomes and predictions of held-out patients stand in the order of the predictions. A hash is a
pseudonym and no secret: whoever has a list of ids can find out which of them trained the model.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.endpoints import ClassTarget, ContinuousTarget, SurvivalTarget, Target
from wsikit.cohort.table import Cohort, CohortSlide
from wsikit.config import config_hash
from wsikit.errors import ConfigError
from wsikit.evaluation.outliers import Reference, fit_reference, held_out_distances, reference_from
from wsikit.metrics.survival_curve import StepCurve, baseline_hazard, censoring_curve
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle, add_to_bundle

Rows = npt.NDArray[np.int64]
Arrays = dict[str, npt.NDArray[Any]]

TAU = 0.9
"""Uno's C counts events up to this quantile of the training patients' event times."""

FEWEST = 5
"""Training patients of whom fewer have no spread that a new one could be compared with."""


@dataclass(frozen=True)
class Modelled:
    """A model and what it says of patients whom it was not fitted on.

    Attributes:
        bundle: On disk.
        held_out: (n, K) its predictions of the group's held-out patients, in the group's order.
    """

    bundle: Path
    held_out: Values


def enter_known(
    models: Sequence[Modelled],
    cohort: Cohort,
    means: npt.NDArray[np.floating],
    *,
    trained: Rows,
    held_out: Rows,
    who: str,
    cuts: str,
) -> None:
    """Write into the bundles of one group (the models of a fold) whom they know, and how they do on held-out patients.

    Args:
        models: The group; all were made from the same patients.
        cohort: Patients.
        means: (P, D) mean feature of each.
        trained: Positions of all who fitted or watched any of the models.
        held_out: Positions of the patients of ``Modelled.held_out``. They may be among those who watched; if
            so there are no others, and distances are cross-fitted.
        who: Who the held-out patients are, in words.
        cuts: What the thresholds were chosen on, in words.
    """
    target = cohort.target.take(held_out)
    shared = _reference(means, trained, held_out)
    together = np.mean([m.held_out for m in models], axis=0)
    order = np.lexsort([*together.T[::-1]])  # by the prediction: of whom a row is cannot be seen
    facts: dict[str, Any] = {
        "patients": patient_hashes(cohort.patients[i] for i in trained),
        "slides": slide_hashes(slide for i in trained for slide in cohort.slides[i]),
        "held_out": {
            "group": config_hash([who, together[order].tolist()])[:16],
            "who": who,
            "patients": len(held_out),
        },
        "cuts": cuts,
    }
    if isinstance(cohort.target, SurvivalTarget) and isinstance(target, SurvivalTarget):
        facts["survival"], more = _survival(cohort.target.take(trained), target)
        shared |= more
    for model in models:
        own = _predictions(model.held_out, target, order)
        add_to_bundle(model.bundle, facts=facts, known=shared | own)


def _reference(means: npt.NDArray[np.floating], trained: Rows, held_out: Rows) -> Arrays:
    """Where the patients lie; nothing of so few that they have no spread."""
    if len(trained) < FEWEST:
        return {}
    arrays = fit_reference(means[trained]).arrays()
    reference = reference_from(arrays)  # with the bits that a new patient will be compared by
    apart = not set(held_out.tolist()) & set(trained.tolist())
    distance = reference.distances(means[held_out]) if apart else held_out_distances(means[trained])
    found: Arrays = {f"reference.{name}": value for name, value in arrays.items()}
    return found | {"held_out.distance": np.sort(distance)}


def _predictions(held_out: Values, target: Target, order: Rows) -> Arrays:
    if isinstance(target, ClassTarget):
        return {"held_out.prediction": held_out[order], "held_out.label": target.label[order]}
    if isinstance(target, ContinuousTarget):
        return {"held_out.prediction": held_out[order], "held_out.value": target.value[order]}
    if isinstance(target, SurvivalTarget):
        return _curve("baseline", baseline_hazard(held_out[:, 0], target.time, target.event))
    return {}


def _survival(trained: SurvivalTarget, held_out: SurvivalTarget) -> tuple[dict[str, Any], Arrays]:
    """Times up to which the models can be measured, and the censoring of those who trained them."""
    happened = trained.time[trained.event]
    facts = {
        "unit": trained.unit,
        "tau": float(np.quantile(happened, TAU)),
        "horizon": float(np.median(happened)),
        "followed": float(held_out.time.max()),
    }
    return facts, _curve("censoring", censoring_curve(trained.time, trained.event))


def _curve(name: str, curve: StepCurve) -> Arrays:
    return {f"{name}.time": curve.time, f"{name}.value": curve.value}


def patient_hashes(patients: Iterable[str]) -> list[str]:
    """A pseudonym for each patient, 16 hex digits, sorted."""
    return sorted(_hash(f"patient {name}") for name in patients)


def slide_hashes(slides: Iterable[CohortSlide]) -> list[str]:
    """The same of the slides' contents, so that a patient is known under another name, too."""
    found = (slide.store.slide(slide.slide_id).get("fingerprint") for slide in slides)
    return sorted({_hash(f"slide {mark}") for mark in found if mark})


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_strangers(bundles: Sequence[Bundle], patients: Mapping[str, Sequence[CohortSlide]], where: str) -> None:
    """Refuse patients who trained any of the models: of them it would be no external validation.

    Args:
        bundles: The models.
        patients: Slides of each patient.
        where: Of the table, for the message.

    Raises:
        ConfigError: Such patients, who are named, or models that do not say who trained them.
    """
    if any("patients" not in bundle.facts for bundle in bundles):
        raise ConfigError(
            "the models do not say which patients trained them: an earlier wsikit wrote them, or their run was "
            "interrupted; repeat 'wsikit crossval' with the same configuration (models that are there are kept) or "
            "'wsikit train'"
        )
    known = {mark for bundle in bundles for mark in bundle.facts["patients"]}
    contents = {mark for bundle in bundles for mark in bundle.facts["slides"]}
    same = [p for p in patients if _hash(f"patient {p}") in known]
    again = [p for p, slides in patients.items() if p not in same and not contents.isdisjoint(slide_hashes(slides))]
    if same or again:
        named = same + [f"{name} (under another name: a slide's content is the same)" for name in again]
        raise ConfigError(
            f"{where}: {len(named)} of {len(patients)} patients trained these models: {', '.join(named[:10])}"
            f"{' ...' if len(named) > 10 else ''}; on them it is no external validation; take them out of the table"
        )


@dataclass(frozen=True)
class Group:
    """Models that were made from the same patients: those of a fold.

    Attributes:
        members: Positions among the bundles.
        bundles: These.
    """

    members: tuple[int, ...]
    bundles: tuple[Bundle, ...]

    @property
    def reference(self) -> Reference:
        """Where their training patients lie."""
        known = self.bundles[0].known
        return reference_from({k.removeprefix("reference."): v for k, v in known.items() if k.startswith("reference.")})

    @property
    def distances(self) -> npt.NDArray[np.float64]:
        """(n,) of held-out patients."""
        return np.asarray(self.bundles[0].known["held_out.distance"], np.float64)

    def held_out(self) -> Values:
        """(n, K) mean prediction of the held-out patients."""
        return np.asarray(np.mean([b.known["held_out.prediction"] for b in self.bundles], axis=0), np.float64)


def groups_of(bundles: Sequence[Bundle]) -> list[Group] | None:
    """The models, group by group; None where any of them knows of no held-out patients.

    Raises:
        ConfigError: Models of several runs: held-out patients of one trained the models of another.
    """
    if any("held_out" not in bundle.facts for bundle in bundles):
        return None
    runs = {str(bundle.facts.get("splits hash")) for bundle in bundles}
    found: dict[str, list[int]] = {}
    for position, bundle in enumerate(bundles):
        found.setdefault(str(bundle.facts["held_out"]["group"]), []).append(position)
    folds = [bundles[members[0]].facts.get("fold") for members in found.values()]
    if len(runs) > 1 or len(set(folds)) < len(folds):
        raise ConfigError(
            f"the {len(bundles)} models are of several runs; whom the models of one run have not seen may have trained "
            "those of another; name the models of one"
        )
    return [Group(tuple(m), tuple(bundles[i] for i in m)) for m in found.values()]


def curve_of(bundle: Bundle, name: str) -> StepCurve:
    """The ``baseline`` hazard or the ``censoring`` of a survival model."""
    time = np.asarray(bundle.known[f"{name}.time"], np.float64)
    before = {"baseline": 0.0, "censoring": 1.0}[name]
    return StepCurve(time, np.asarray(bundle.known[f"{name}.value"], np.float64), before, float(time[-1]))
