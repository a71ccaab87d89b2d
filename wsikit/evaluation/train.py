"""One model for use: trained on all patients but those that watch it, and gone on with after a crash."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, Target, endpoint_from
from wsikit.cohort.several_outcomes import SeveralTarget
from wsikit.cohort.split_files import load_splits
from wsikit.cohort.splits import Fold, Splits, hold_out, save_splits, strata_of, within
from wsikit.cohort.table import Cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.cohort import cohort_of
from wsikit.evaluation.crossval import best_threshold
from wsikit.evaluation.known import Modelled, enter_known
from wsikit.evaluation.manifest import build_manifest, bundle_facts
from wsikit.evaluation.members import bags_of, check_start
from wsikit.evaluation.risk_groups import training_cuts
from wsikit.evaluation.settings import Experiment
from wsikit.evaluation.tuning.folds import check_tuned_model
from wsikit.store.lease import RESULTS, Lease
from wsikit.store.objects import write_atomic
from wsikit.tasks.several import SeveralTask
from wsikit.tasks.task import Values
from wsikit.training.bundle import Bundle, save_bundle
from wsikit.training.checkpoint import history_of
from wsikit.training.epoch import Epoch, EpochLog, plain_history
from wsikit.training.fit import FitResult, fit, predict
from wsikit.training.logs import begin_logs
from wsikit.training.settings import graph_of
from wsikit.training.start import StartReport

Say = Callable[[str], None]
Rows = npt.NDArray[np.int64]
CHECKPOINT, MODEL = "checkpoint.safetensors", "model.safetensors"


@dataclass(frozen=True)
class TrainResult:
    """A trained model.

    Attributes:
        bundle: The model on disk.
        cohort: Patients, slides, exclusions.
        fold: Who fitted it, who watched it, and who of a split file had no part in it.
        history: Every epoch.
        best: Number of the epoch whose weights were kept.
        before: Epochs that were there when this call began.
        started: Given weights that it started from, or None.
    """

    bundle: Path
    cohort: Cohort
    fold: Fold
    history: tuple[Epoch, ...]
    best: int
    before: int
    started: StartReport | None


def train(
    experiment: Experiment,
    *,
    fold: int | None = None,
    say: Say = lambda line: None,
    watch: Callable[[Epoch], None] = lambda epoch: None,
) -> TrainResult:
    """Train one model on a cohort.

    ``splits.validation`` of the patients, stratified by the outcome, watch it; all others fit it. Its numbers
    on those who watched are no measure of how good it is on new patients: :func:`~wsikit.evaluation.crossval.crossval`
    is. With ``splits.file`` train and validation are the file's, and patients tested there have no part.

    Written into ``experiment.out``: ``model.safetensors`` for ``wsikit predict``, ``history.csv``, ``run.json``,
    ``splits.csv``, TensorBoard's events where it is installed, and after every epoch ``checkpoint.safetensors``.
    The same call goes on from there, whenever and however it was interrupted, and on a CPU with as many threads
    ends with the same bytes.

    Args:
        experiment: From :func:`wsikit.evaluation.settings.load_experiment`.
        fold: Of a split file with several folds, from 0.
        say: Called with a line of text at each step.
        watch: Called after every epoch.

    Raises:
        ConfigError: Anything about the table, the stores, the splits or the settings that cannot be used; a
            checkpoint of another training.
        LockedError: Another process writes into ``experiment.out``.
    """
    endpoint = endpoint_from(experiment.endpoint)
    cohort = cohort_of(experiment, say=say)
    splits = roles_of(experiment, cohort, fold)
    roles = splits.folds[0]
    check_tuned_model(experiment, roles)
    rows, watching = cohort.index(roles.train), cohort.index(roles.validation)
    graph_of(experiment.model)
    started = check_start(experiment, cohort)
    if started is not None:
        say(f"starting from {started.file}: {len(started.loaded)} tensors of the aggregator, all it has")
    out = experiment.out
    out.mkdir(parents=True, exist_ok=True)
    with Lease(out, kind=RESULTS, say=say) as lease:
        before = history_of(out / CHECKPOINT)
        if before:
            say(f"going on after epoch {len(before)} of {experiment.training.epochs}")
        say(f"training on {len(rows)} patients, watched by {len(watching)}")
        bags = bags_of(experiment, cohort)
        for position in range(len(bags)):
            bags.count(position)
        manifest = build_manifest(experiment, cohort, splits, bags)
        save_splits(splits, out / "splits.csv")
        logs = _logs(experiment, before, say)
        failed = True

        def told(epoch: Epoch) -> None:
            lease.check()
            for log in logs:
                log(epoch)
            watch(epoch)

        try:
            found = fit(
                bags, endpoint, cohort.target, train=rows, validation=watching, model=experiment.model,
                training=experiment.training, watch=told, checkpoint=out / CHECKPOINT,
            )  # fmt: skip
            failed = False
        finally:
            for log in logs:
                log.close(failed=failed)
        facts = bundle_facts(cohort, manifest) | {
            "aggregator": {"name": experiment.model.aggregator, "options": experiment.model.options},
            "in_dim": found.model.aggregator.in_dim,
            "epoch": found.best,
            "history": plain_history(found.history),
            "thresholds": _thresholds(found, cohort.target, rows, watching, bags),
            "started": None if started is None else asdict(started),
        }
        bundle = save_bundle(Bundle(found.model, found.task, endpoint, facts), out / MODEL)
        _enter_known(bundle, found, cohort, rows, watching, bags, chosen=experiment.training.keep == "best")
        write_atomic(out / "run.json", (json.dumps(manifest | {"started": facts["started"]}, indent=2) + "\n").encode())
        for partial in out.glob("*.partial"):  # of a call that was killed while it wrote
            partial.unlink()
        return TrainResult(bundle, cohort, roles, found.history, found.best, len(before), started)


def _logs(experiment: Experiment, before: tuple[Epoch, ...], say: Say) -> list[EpochLog]:
    config = {
        "encoder": experiment.encoder,
        "model": experiment.model.model_dump(mode="json", exclude={"init"}),
        "training": experiment.training.model_dump(mode="json"),
    }
    return begin_logs(experiment.log, experiment.out, name=experiment.name, config=config, before=before, say=say)


def roles_of(experiment: Experiment, cohort: Cohort, number: int | None) -> Splits:
    """One fold: who trains, who watches, and who is left out."""
    wanted = experiment.splits
    if wanted.file is None:
        if number is not None:
            raise ConfigError(
                f"fold {number}: there is no split file; name one in the configuration (splits: file: ...)"
            )
        strata, name = strata_of(cohort.target, 2)
        train, watch = hold_out(
            np.arange(len(cohort)), cohort.target, strata, share=wanted.validation, seed=wanted.seed
        )
        patients = np.array(cohort.patients)
        roles = Fold(tuple(sorted(patients[train].tolist())), tuple(sorted(patients[watch].tolist())), ())
        made = {"seed": wanted.seed, "validation": wanted.validation, "stratified by": name}
        return Splits((roles,), made)
    found = load_splits(wanted.file, cohort, validation=wanted.validation, seed=wanted.seed)
    found = within(found, cohort)
    if number is None and len(found.folds) > 1:
        raise ConfigError(f"{wanted.file}: {len(found.folds)} folds; say which one trains the model (--fold 0, 1, ...)")
    if number is not None and not 0 <= number < len(found.folds):
        raise ConfigError(f"{wanted.file}: no fold {number}, expected 0 to {len(found.folds) - 1}")
    roles = found.folds[number or 0]
    both = (set(roles.train) | set(roles.validation)) & set(roles.test)
    if both:
        raise ConfigError(f"{wanted.file}: patient {min(both)!r} is in test and in another role")
    return Splits((roles,), dict(found.made) | {"fold": number or 0})


def _thresholds(found: FitResult, target: Target, rows: Rows, watching: Rows, bags: Bags) -> dict[str, Any]:
    """Cut points for calls: of two classes on those who watched, of risks on those who trained; of several outcomes
    those of each, by name.
    """
    if not isinstance(target, SeveralTarget):
        if isinstance(target, ClassTarget) and len(target.classes) == 2:
            return cut_points(target.take(watching), predict(found.model, found.task, bags, watching)[0])
        if isinstance(target, SurvivalTarget):
            return cut_points(target.take(rows), predict(found.model, found.task, bags, rows)[0])
        return {}
    assert isinstance(found.task, SeveralTask)
    fitted, watched = (predict(found.model, found.task, bags, asked)[0] for asked in (rows, watching))
    cuts = {}
    for number, (name, columns) in enumerate(zip(target.names, found.task.columns_of, strict=True)):
        survival = isinstance(target.parts[number].target, SurvivalTarget)
        part = target.parts[number].take(rows if survival else watching)
        cuts[name] = cut_points(part.target, (fitted if survival else watched)[part.known][:, columns])
    return cuts


def cut_points(target: Target, prediction: Values) -> dict[str, float]:
    """Where two classes or two risk groups part; nothing where there are none.

    Args:
        target: Of the patients who decide.
        prediction: Theirs.
    """
    if isinstance(target, ClassTarget) and len(target.classes) == 2:
        return {"probability": best_threshold(prediction[:, 1], target.label == 1)}
    if isinstance(target, SurvivalTarget):
        try:
            return {"log_risk": float(training_cuts(prediction[:, 0])[0])}
        except ConfigError:  # all risks are equal: there are no groups
            return {}
    return {}


def _enter_known(
    bundle: Path, found: FitResult, cohort: Cohort, rows: Rows, watching: Rows, bags: Bags, *, chosen: bool
) -> None:
    """Tell the bundle who trained it, and how it does on those who watched: nobody else was held out."""
    said, _ = predict(found.model, found.task, bags, watching)
    epoch = ", who also chose its epoch" if chosen else ""
    enter_known(
        [Modelled(bundle, said)], cohort, bags.means(), trained=np.union1d(rows, watching), held_out=watching,
        who=f"patients who watched the training{epoch}",
        cuts=f"median risk of the {len(rows)} training patients"
        if isinstance(cohort.target, SurvivalTarget)
        else f"best balanced accuracy on the {len(watching)} patients who watched the training",
    )  # fmt: skip
