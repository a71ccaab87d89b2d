"""A cross-validation in which each fold has the settings that were chosen without its tested patients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wsikit.cohort.splits import Fold, Splits
from wsikit.config import config_hash
from wsikit.errors import ConfigError
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.tuning.space import changed

ON_THESE_PATIENTS = (
    "The settings were chosen by {trials} trials on these same patients, so these numbers are those of the winner and "
    "too good. The 'wsikit tune' that chose them can also say how good the whole recipe is: 'tune --for estimate'."
)


ON_THESE, ON_OTHERS = "these patients", "each fold's other patients"
"""On whom settings were chosen."""


def of_fold(experiment: Experiment, repeat: int, fold: int) -> Experiment:
    """The experiment with the settings that were tuned for a fold; as it is where none were."""
    if experiment.tuned is None or not experiment.tuned.folds:
        return experiment
    number = repeat * (len(experiment.tuned.folds) // experiment.splits.repeats) + fold
    model, training = changed(experiment.model, experiment.training, experiment.tuned.folds[number])
    return experiment.model_copy(update={"model": model, "training": training})


def check_tuned(experiment: Experiment, dealt: Sequence[Splits]) -> None:
    """Refuse settings that were tuned for other folds: they may have been chosen on patients that are tested now.

    Raises:
        ConfigError: The splits are not those of the tuning.
    """
    tuned = experiment.tuned
    if tuned is None or not tuned.folds:
        return
    found, folds = tuple(one.hash for one in dealt), sum(len(one.folds) for one in dealt)
    if found != tuned.splits or folds != len(tuned.folds):
        raise ConfigError(
            f"tuned: its settings are of {len(tuned.folds)} folds with hash {', '.join(h[:12] for h in tuned.splits)}, "
            f"and these are {folds} folds with hash {', '.join(h[:12] for h in found)}: patients tested now may have "
            "had a part in the choice; run 'wsikit tune' again on this cohort, or remove 'tuned' and choose by hand"
        )


def patients_hash(roles: Fold) -> str:
    """Hash of the patients that a final model is made of: those that train it, and those that watch it."""
    return config_hash(sorted([*roles.train, *roles.validation]))


def check_tuned_model(experiment: Experiment, roles: Fold) -> None:
    """Refuse to train a model with settings that were not chosen for it.

    Raises:
        ConfigError: Settings were tuned for the folds of a cross-validation only; or, with a split file, on other
            patients than this fold trains on, among whom its tested ones may be.
    """
    tuned, file = experiment.tuned, experiment.splits.file
    if tuned is None:
        return
    if tuned.patients is None:
        raise ConfigError(
            "tuned: settings were chosen for each fold of a cross-validation, and none for a model of all patients; "
            "run 'wsikit tune --for model'"
        )
    if file is not None and tuned.patients != patients_hash(roles):
        raise ConfigError(
            f"tuned: the settings were chosen on other patients than this fold of {file} trains on, and its tested "
            "patients may be among them; run 'wsikit tune --for model --fold ...' for this fold"
        )


def tuning_facts(experiment: Experiment) -> dict[str, Any] | None:
    """What ``run.json`` says of the tuning; None where the settings are as somebody gave them."""
    tuned = experiment.tuned
    if tuned is None:
        return None
    return {
        "trials": tuned.trials,
        "chosen on": ON_OTHERS if tuned.folds else ON_THESE,
        **tuned.model_dump(mode="json", include={"studies", "fits", "epochs", "cpu_hours", "failed", "metric"}),
    }


def budget_words(facts: dict[str, Any] | None) -> str:
    """``none``, or ``20 trials in each fold, on its other patients (400 fits, 9,000 epochs, 2 CPU hours in all)``."""
    if not facts:
        return "none"
    where = "on these patients" if facts["chosen on"] == ON_THESE else "in each fold, on its other patients"
    return (
        f"{facts['trials']} trial{'' if facts['trials'] == 1 else 's'} {where} ({facts['fits']:,} fits, "
        f"{facts['epochs']:,} epochs, {facts['cpu_hours']:.2g} CPU hours in all)"
    )
