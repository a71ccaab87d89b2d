"""What a heatmap has to say for itself: the prediction without the tiles that it marks, and with these alone."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import numpy as np
import numpy.typing as npt

from wsikit.cohort.bags import Bags
from wsikit.cohort.endpoints import ClassTarget, SurvivalTarget
from wsikit.cohort.several_labels import LabelsTarget
from wsikit.evaluation.faithfulness import Faithfulness, Map, Removal, faithfulness, removals, score_of
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.tile_maps import mean_map
from wsikit.figures.removal_curves import draw_removal_curves
from wsikit.reports.pictures import Shown, data_uri
from wsikit.reports.words import decimals_of, number_text
from wsikit.training.bundle import Bundle, load_bundle

TOP = 0.1
"""Share of the tiles that the words are about; the figure has them all."""

VERDICTS = {
    "faithful": "Taking its tiles away hurts the prediction more than each of {n} random orders does",
    "undecided": "Taking its tiles away hurts the prediction no more than random tiles do: it is not told from chance",
    "unfaithful": "Taking its tiles away hurts the prediction less than each of {n} random orders does: the prediction "
    "comes from other tiles",
}


@dataclass(frozen=True)
class Explained:
    """What of a patient's prediction a map is asked about.

    Attributes:
        name: "probability of tumour", "log risk", "minus log risk", ...
        column: Of the prediction.
        sign: -1 where the patient's prediction is low for the fold, and what makes it low is asked.
    """

    name: str
    column: int
    sign: float


@dataclass(frozen=True)
class Evidence:
    """The test of a patient's map.

    Attributes:
        verdict: "faithful", "undecided" or "unfaithful".
        words: Areas under the curves, and the prediction without the top tiles and with these alone.
        curves: The figure.
    """

    verdict: str
    words: str
    curves: Shown


def explained(result: CrossvalResult, patient: int) -> Explained:
    """The probability of the class that is called; else what is most off the fold's mean, in its direction."""
    target, mine = result.cohort.target, result.model.prediction[patient]
    if isinstance(target, ClassTarget):
        column = int(mine.argmax())
        if result.threshold is not None:
            column = int(mine[1] > result.threshold[patient])
        return Explained(f"probability of {target.classes[column]}", column, 1.0)
    off = mine - result.model.prediction[result.fold == result.fold[patient]].mean(0)
    column = int(np.abs(off).argmax())
    if isinstance(target, LabelsTarget):
        name = f"probability of {target.names[column]}"
    else:
        name = "log risk" if isinstance(target, SurvivalTarget) else "predicted value"
    return Explained(name, column, 1.0) if off[column] >= 0 else Explained(f"minus {name}", column, -1.0)


def map_of(result: CrossvalResult, patient: int, bags: Bags) -> Map | None:
    """The map of a patient that the experiment asks for, (N,) mean over the models of its fold.

    Args:
        result: A cross-validation; its models still on disk, where the map is not the attention that it holds.
        patient: Position in the cohort.
        bags: Of the cohort's patients.

    Returns:
        None for the attention of a model that has none.

    Raises:
        ConfigError: A model is not there any more, or has no such map.
    """
    if result.experiment.evaluation.map == "attention":
        return result.attention[patient]
    bundles = _bundles(result, patient)
    bag = bags.batch([patient], graph=bundles[0].model.graph)
    return mean_map(bundles, bag, kind=result.experiment.evaluation.map)


def evidence_of(result: CrossvalResult, patient: int, bags: Bags, tile_map: Map | None) -> Evidence | None:
    """The test of a patient's map by the models of its fold; None without a map or where it is not asked for.

    Args:
        result: A cross-validation, its models still on disk.
        patient: Position in the cohort.
        bags: Of the cohort's patients.
        tile_map: (N,), of :func:`map_of`.

    Raises:
        ConfigError: A model is not there any more, or the map is of other tiles.
    """
    orders = result.experiment.evaluation.faithfulness
    if tile_map is None or not orders:
        return None
    bundles = _bundles(result, patient)
    what = explained(result, patient)
    bag = bags.batch([patient], graph=bundles[0].model.graph)
    score = score_of(bundles, result.first_column + what.column, sign=what.sign)
    found = faithfulness(score, bag, tile_map, random_orders=orders)
    top = max(1, round(TOP * found.tiles))
    dropped = removals(score, bag, tile_map, tiles=[top], random_orders=orders) if found.tiles > 1 else ()
    return Evidence(found.verdict, _words(found, dropped, what), _figure(found, what))


def _bundles(result: CrossvalResult, patient: int) -> list[Bundle]:
    mine = [m for m in result.members if m.fold == result.fold[patient]]
    return [load_bundle(result.out / member.bundle) for member in mine]


def _words(found: Faithfulness, dropped: tuple[Removal, ...], what: Explained) -> str:
    areas = found.random_areas
    decimals = max(2, decimals_of([found.deletion_area, *areas.tolist()]))

    def text(value: float | npt.NDArray[np.float64]) -> str:
        return number_text(float(np.mean(value)), decimals)

    lines = [
        f"Faithfulness of this map for the {what.name}: deletion AUC {text(found.deletion_area)} against random "
        f"{text(areas)} ({text(areas.min())} to {text(areas.max())}), insertion AUC {text(found.insertion_area)}.",
        f"{VERDICTS[found.verdict].format(n=len(areas))}.",
    ]
    for one in dropped:
        lines.append(
            f"With all {found.tiles:,} tiles the {what.name} is {text(one.whole)}; without the top {one.tiles:,} "
            f"{text(one.without)} (without as many random ones {text(one.random_without)}), with the top {one.tiles:,} "
            f"alone {text(one.only)} (random {text(one.random_only)})."
        )
    return " ".join(lines)


def _figure(found: Faithfulness, what: Explained) -> Shown:
    share = found.removed / found.tiles
    figure = draw_removal_curves(share, found.deletion, found.insertion, found.random, name=what.name)
    written = BytesIO()
    figure.savefig(written, format="png")
    alt = f"The {what.name} while tiles are taken away"
    return Shown(data_uri(written.getvalue(), "png"), round(float(figure.get_figwidth()) * 92), alt, "")
