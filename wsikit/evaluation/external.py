"""External validation: models as they were trained, on patients of elsewhere whose outcome is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget, endpoint_settings
from wsikit.cohort.several_outcomes import Several
from wsikit.cohort.table import Cohort, load_cohort
from wsikit.errors import ConfigError
from wsikit.evaluation.assessment import ClassSets, Intervals, check_coverage, sets_of, unlikeness_of
from wsikit.evaluation.ensemble import calls_of, load_models, mean_of, predictions_of, threshold_of
from wsikit.evaluation.external_files import write_external
from wsikit.evaluation.external_metrics import Said, metrics_among
from wsikit.evaluation.external_result import ExternalResult
from wsikit.evaluation.external_survival import absolute_risks, risk_metrics
from wsikit.evaluation.known import Group, check_strangers, groups_of
from wsikit.evaluation.manifest import DISTRIBUTIONS
from wsikit.evaluation.predict import Say, features_of
from wsikit.evaluation.recalibration import HOW, PARTS, How, Recalibration, cross_fitted, fit_recalibration
from wsikit.evaluation.recalibration_survival import RiskRecalibration, cross_fitted_risks, fit_risks
from wsikit.evaluation.result import ModelResult, SubgroupResult
from wsikit.evaluation.risk_groups import LogRank, log_rank
from wsikit.evaluation.scores import metrics_of, strata
from wsikit.evaluation.settings import EvaluationSettings
from wsikit.evaluation.subgroups import Subgroup, subgroups_of
from wsikit.extract.run import Progress
from wsikit.metrics import UndefinedMetricError
from wsikit.metrics.calibration import EDGE
from wsikit.provenance import sha256_file, versions
from wsikit.store.places import ObjectPath, place_of
from wsikit.tasks.task import Values, create_task
from wsikit.training.bundle import Bundle

OF_PROBABILITIES = ("Brier score", "calibration error", "calibration slope", "calibration intercept")
"""What a recalibration can change; it changes no ranking, and calls are made by the frozen threshold."""
FEW = 100
"""Patients of each class, or events, below which an external validation says little (Collins et al. 2016)."""


def evaluate_external(
    target: str | PathLike[str] | ObjectPath,
    models: str | PathLike[str],
    table: str | PathLike[str],
    *,
    out: str | PathLike[str],
    recalibrate: How | None = None,
    coverage: float | None = None,
    by_class: bool = False,
    horizon: float | None = None,
    subgroups: Sequence[str] = (),
    bootstrap: int = 2000,
    weights: str | None = None,
    workers: int | None = None,
    progress: Progress | None = None,
    say: Say = lambda line: None,
) -> ExternalResult:
    """Measure models on an external cohort.

    Nothing is chosen on these patients: weights, the scale of features, the threshold and the cut between risk groups
    are those of the training. Patients who trained any of the models are refused.

    Written into ``out``: ``metrics.csv``, ``predictions.csv``, ``external.json``, where asked for ``subgroups.csv``;
    :func:`wsikit.reports.external.write_external_report` adds figures and ``report.html``.

    Args:
        target: Slides or a store, as for :func:`~wsikit.evaluation.predict.predict_slides`.
        models: A bundle, or a folder of bundles (their mean).
        table: CSV with slide_id, patient_id and the outcome in the columns that the models were trained with.
        out: Folder for the results.
        recalibrate: Also give a second result, with probabilities recalibrated on these patients, cross-fitted; of
            survival with risks at the horizon whose baseline hazard is theirs.
        coverage: Also give prediction sets, and how often they held the truth.
        by_class: For each class's patients.
        horizon: Of survival, the time at which risks are compared.
        subgroups: Columns of the table in whose groups the models are measured again, their cut points being the same:
            ``sex``; a number is cut, ``age:65``. See :func:`~wsikit.evaluation.subgroups.subgroups_of`.
        bootstrap: Resamples of patients for every interval.
        weights: Weights of the encoder, for encoders that have some.
        workers: Processes of an extraction.
        progress: Told what the extraction does.
        say: Called with a line of text at each step.

    Raises:
        ConfigError: What :func:`~wsikit.evaluation.predict.predict_slides` refuses, a table without the outcome,
            patients who trained the models, or a request that the endpoint or the table cannot have.

    Reference:
        Collins et al., 2024, BMJ 385:e078378, doi:10.1136/bmj-2023-078378 (TRIPOD+AI); calibration: Van Calster et al.,
        2019, BMC Med 17:230, doi:10.1186/s12916-019-1466-7; of survival: Royston and Altman, 2013, BMC Med Res
        Methodol 13:33.
    """
    bundles, out = load_models(Path(models)), Path(out)
    _check_request(bundles, recalibrate, coverage, by_class, horizon)
    store, _, _ = features_of(
        place_of(target), bundles[0], out=out, weights=weights, workers=workers, progress=progress, say=say
    )
    cohort = load_cohort(
        table, endpoint=bundles[0].endpoint, stores=[store], encoder=str(bundles[0].facts["encoder"]["key"]),
        missing_slides="exclude",
    )  # fmt: skip
    check_strangers(bundles, dict(zip(cohort.patients, cohort.slides, strict=True)), str(table))
    wanted = subgroups_of(cohort, subgroups)
    settings = EvaluationSettings(bootstrap=bootstrap, subgroups=tuple(subgroups))
    say(f"predicting {len(cohort)} patients with {len(bundles)} models ...")
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    each, _ = predictions_of(bundles, bags)
    groups = groups_of(bundles) if coverage is not None else _groups_if_any(bundles)
    unlike = unlikeness_of(groups, bags.means())
    sets = (
        None if coverage is None or not groups else sets_of(groups, cohort.endpoint, each, coverage, by_class=by_class)
    )
    say(f"measuring: {bootstrap} resamples of patients")
    result = _measured(bundles, cohort, each, sets, horizon, wanted, settings)
    result = replace(result, out=out, unlike=unlike, sets=sets)
    if recalibrate is not None:
        result = _recalibrated(result, recalibrate, settings)
    notes = (*result.notes, *_notes(result))
    result = replace(result, notes=notes, manifest=_manifest(result, bundles, Path(table), settings))
    write_external(result)
    return result


def _check_request(
    bundles: Sequence[Bundle], recalibrate: How | None, coverage: float | None, by_class: bool, horizon: float | None
) -> None:
    endpoint = bundles[0].endpoint
    if isinstance(endpoint, Several):
        raise ConfigError(
            f"the models predict several outcomes ({', '.join(endpoint.names)}), and 'wsikit evaluate' measures models "
            "of one; train a model of one outcome, or measure the columns that 'wsikit predict' writes"
        )
    if recalibrate is not None:
        if recalibrate not in HOW:
            raise ConfigError(f"recalibrate: {recalibrate!r}, expected 'intercept', or 'slope' (with intercept)")
        if endpoint.kind != "survival" and (endpoint.kind != "class" or len(getattr(endpoint, "classes", ())) != 2):
            raise ConfigError(
                "recalibrate: of the probability of one of two classes, or of survival risks, and the models "
                f"predict {endpoint.title!r} (kind {endpoint.kind!r}); leave out --recalibrate"
            )
    if coverage is not None:
        check_coverage(endpoint, bundles, coverage, by_class=by_class)
    elif by_class:
        raise ConfigError("by_class says for whom a coverage holds, and none is given; add coverage, as 0.9")
    if horizon is not None and endpoint.kind != "survival":
        raise ConfigError(f"horizon: the models predict {endpoint.title!r}, no survival; leave out --horizon")


def _groups_if_any(bundles: Sequence[Bundle]) -> list[Group] | None:
    try:
        return groups_of(bundles)
    except ConfigError:  # of several runs: they can be measured, and only say nothing of who is unlike
        return None


def _measured(
    bundles: Sequence[Bundle],
    cohort: Cohort,
    each: Sequence[Values],
    sets: ClassSets | Intervals | None,
    horizon: float | None,
    groups: Sequence[Subgroup],
    settings: EvaluationSettings,
) -> ExternalResult:
    """The models as they were trained, on everybody and in each group."""
    first, target = bundles[0], cohort.target
    prediction, everybody = mean_of(each), np.arange(len(cohort))
    calls = tuple("".join(calls_of(bundles, row).values()) for row in prediction)
    cut = threshold_of(bundles, "probability") if isinstance(target, ClassTarget) and len(target.classes) == 2 else None
    absolute = test = None
    if isinstance(target, SurvivalTarget):
        absolute = absolute_risks(bundles, each, horizon)
        test = _log_rank(target, calls)
    said = Said(bundles, prediction, cut, absolute, sets)
    found = metrics_among(said, target, everybody, settings)
    within = tuple(
        SubgroupResult(g.column, g.name, g.rows, metrics_among(said, target, g.rows, settings)) for g in groups
    )
    trained = len({mark for bundle in bundles for mark in bundle.facts["patients"]})
    name = f"as trained ({first.facts['aggregator']['name']} on {first.facts['encoder']['card']['name']})"
    return ExternalResult(
        out=Path(), cohort=cohort, columns=first.task.columns, model=ModelResult(name, prediction, found),
        recalibrated=None, recalibration=None, models=len(bundles), trained=trained, threshold=cut, cuts=_cuts(bundles),
        calls=calls, unlike=None, sets=None, absolute=absolute, log_rank=test, notes=(), manifest={},
        subgroups=within,
    )  # fmt: skip


def _cuts(bundles: Sequence[Bundle]) -> str:
    """What the cut points were chosen on, model by model."""
    each = list(dict.fromkeys(str(bundle.facts["cuts"]) for bundle in bundles))
    if len(each) == 1:
        return each[0]
    more = "; ..." if len(each) > 3 else ""
    return f"mean over {len(bundles)} models: {'; '.join(each[:3])}{more}"


def _log_rank(target: SurvivalTarget, calls: Sequence[str]) -> LogRank | None:
    try:
        return log_rank(target.time, target.event, np.array(calls))
    except (UndefinedMetricError, ConfigError):
        return None


def _recalibrated(result: ExternalResult, how: How, settings: EvaluationSettings) -> ExternalResult:
    """The result with a second one beside it; where there is none, a note says why."""
    target, cohort = result.cohort.target, result.cohort
    if isinstance(target, SurvivalTarget):
        return _recalibrated_risks(result, target, how, settings)
    assert isinstance(target, ClassTarget)
    chance, positive = np.clip(result.model.prediction[:, 1], 0, 1), target.label == 1
    try:
        whole = fit_recalibration(chance, positive, how)
        mended = cross_fitted(chance, positive, how)
    except UndefinedMetricError as e:
        return replace(result, notes=(*result.notes, f"No recalibration: {e}."))
    prediction = np.stack([1 - mended, mended], 1)
    task = create_task(cohort.endpoint, target)
    every = metrics_of(task, prediction, target, np.zeros(len(cohort), np.int64), settings)
    learnt = "intercept" if how == "intercept" else "slope and intercept"
    name = f"recalibrated on {len(cohort)} external patients ({learnt}, {PARTS}-fold cross-fitted)"
    second = ModelResult(name, prediction, tuple(m for m in every if m.name in OF_PROBABILITIES))
    return replace(result, recalibrated=second, recalibration=whole)


def _recalibrated_risks(
    result: ExternalResult, target: SurvivalTarget, how: How, settings: EvaluationSettings
) -> ExternalResult:
    """The same of survival: risks at the horizon, with a baseline hazard of this cohort."""
    assert result.absolute is not None
    log_risk, at = result.model.prediction[:, 0], result.absolute.horizon
    try:
        whole = fit_risks(log_risk, target.time, target.event, how, at=at)
        risk = cross_fitted_risks(log_risk, target.time, target.event, how, at=at)
    except UndefinedMetricError as e:
        return replace(result, notes=(*result.notes, f"No recalibration: {e}."))
    # the linear predictor that these risks amount to: parts differ in hazard and slope
    steps = np.log(-np.log1p(-np.clip(risk, EDGE, 1 - EDGE)))
    kept = strata(target, np.zeros(len(target), np.int64))
    metrics = risk_metrics(steps, replace(result.absolute, risk=risk), target, kept, settings)
    learnt = "baseline hazard" if how == "intercept" else "slope and baseline hazard"
    name = f"recalibrated on {len(target)} external patients ({learnt}, {PARTS}-fold cross-fitted)"
    return replace(result, recalibrated=ModelResult(name, risk[:, None], tuple(metrics)), recalibration=whole)


def _notes(result: ExternalResult) -> list[str]:
    """What this cohort is too small or too different for."""
    found, target = [], result.cohort.target
    counts = {}
    if isinstance(target, ClassTarget):
        counts = dict(
            zip(target.classes, np.bincount(target.label, minlength=len(target.classes)).tolist(), strict=True)
        )
    if isinstance(target, SurvivalTarget):
        counts = {"events": int(target.event.sum())}
    few = [f"{name}: {count}" for name, count in counts.items() if count < FEW]
    if few:
        found.append(
            f"Fewer than {FEW} ({', '.join(few)}): too few to tell a good model from a middling one; "
            "look at the intervals."
        )
    spread = np.ptp(result.model.prediction, axis=0).max()
    if len(result.cohort) > 2 and spread < 1e-6:
        found.append(f"All {len(result.cohort)} predictions are the same: the model has collapsed on these patients.")
    unlike = result.unlike
    if unlike is None:
        found.append(
            "Whether these patients are like those of the training is not known: the models are of several runs."
        )
    else:
        flagged, n = int(unlike.flagged.sum()), len(unlike.flagged)
        allowed = unlike.rate + 3 * float(np.sqrt(unlike.rate * (1 - unlike.rate) / n))
        if flagged / n > allowed:
            found.append(
                f"{flagged} of {n} patients lie farther from the training patients than {1 - unlike.rate:.1%} of these "
                "(ood_flag in predictions.csv): stain, scanner, tissue or case mix differ, and predictions of them are "
                "extrapolated."
            )
    return found


def _manifest(
    result: ExternalResult, bundles: Sequence[Bundle], table: Path, settings: EvaluationSettings
) -> dict[str, Any]:
    cohort, mended = result.cohort, result.recalibration
    return {
        "format": "wsikit-external",
        "version": "1",
        "endpoint": endpoint_settings(cohort.endpoint),
        "models": [
            {name: bundle.facts.get(name) for name in ("fold", "epoch", "aggregator", "splits hash", "store digest")}
            for bundle in bundles
        ],
        "training patients": result.trained,
        "encoder": cohort.encoder,
        "table": table.name,
        "table sha256": sha256_file(table),
        "patients": len(cohort),
        "slides": cohort.n_slides,
        "excluded": cohort.excluded,
        "threshold": {"value": result.threshold, "chosen on": result.cuts, "frozen": True},
        "horizon": None if result.absolute is None else [result.absolute.horizon, result.absolute.unit],
        "recalibration": None if mended is None else _formula(mended),
        "resamples": settings.bootstrap,
        "subgroups": list(settings.subgroups),
        "results": {m.name: m.value for m in result.model.metrics},
        "versions": versions(DISTRIBUTIONS),
    }


def _formula(mended: Recalibration | RiskRecalibration) -> dict[str, Any]:
    """The recalibration for use on further patients."""
    if isinstance(mended, Recalibration):
        said: dict[str, Any] = {"logit p' = intercept + slope logit p": [mended.intercept, mended.slope]}
    else:
        said = {"risk = 1 - exp(-hazard exp(slope log_risk))": [mended.hazard, mended.slope], "until": mended.at}
    return said | {"learnt on": mended.patients}
