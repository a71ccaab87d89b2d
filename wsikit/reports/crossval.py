"""``report.html`` of a cross-validation: one file to read, to print and to send."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from wsikit.aggregators.registry import aggregator_card
from wsikit.cohort.bags import Bags
from wsikit.evaluation.result import CrossvalResult
from wsikit.evaluation.tile_maps import MAP_NAMES
from wsikit.evaluation.tuning.folds import budget_words
from wsikit.reports.cases import case_groups
from wsikit.reports.evidence import Evidence, evidence_of, map_of
from wsikit.reports.heatmap import draw_heatmap, encoded, split_attention
from wsikit.reports.pictures import (
    calibration_figure,
    data_uri,
    decision_figure,
    main_figure,
    subgroup_figure,
    training_figure,
)
from wsikit.reports.tables import (
    flat,
    fold_rows,
    key_numbers,
    left_out,
    metric_table,
    splits_made,
    subgroup_table,
)
from wsikit.reports.tile_gallery import draw_top_tiles
from wsikit.reports.words import cautions, counted, headline
from wsikit.store.objects import write_atomic

if TYPE_CHECKING:
    from jinja2 import Template

Say = Callable[[str], None]


@dataclass(frozen=True)
class ShownCase:
    """A patient in the report.

    Attributes:
        patient_id: Its name.
        slide_id: The slide that is shown.
        facts: Name and value of what is said.
        source: The picture, a data URI.
        note: Anything about the picture.
        tiles: The tiles that weigh most, a data URI; "" where they cannot be shown.
        evidence: The test of the map, or None.
    """

    patient_id: str
    slide_id: str
    facts: tuple[tuple[str, str], ...]
    source: str
    note: str
    tiles: str
    evidence: Evidence | None


def write_report(result: CrossvalResult, *, say: Say = lambda line: None) -> Path:
    """Write the report of a cross-validation into ``result.out``.

    ``report.html`` holds everything it shows: it can be sent as it is. Beside it are its figures
    (``figures/*.png``) and, of the slides it shows, ``heatmaps/<slide_id>.png`` and
    ``heatmaps/<slide_id>.geojson`` for QuPath. Those of an earlier run are
    replaced.

    Args:
        result: From :func:`wsikit.evaluation.crossval.crossval`.
        say: Called with a line of text at each step.

    Returns:
        Path of ``report.html``.

    Raises:
        ConfigError: The attention does not fit the tiles of the stores.
        StoreError: A store has lost features since.

    Example:
        >>> write_report(crossval(load_experiment("experiment.yaml")))     # doctest: +SKIP
        PosixPath('run/report.html')
    """
    say("report: figures")
    cohort, figures, heatmaps = result.cohort, result.out / "figures", result.out / "heatmaps"
    main, training = main_figure(result, figures), training_figure(result, figures)
    more = [shown for shown in (calibration_figure(result, figures), decision_figure(result, figures)) if shown]
    for old in [*heatmaps.glob("*.png"), *heatmaps.glob("*.geojson")]:  # of an earlier run that chose other slides
        old.unlink()
    bags = Bags(cohort.slides, encoder=cohort.encoder)
    name = MAP_NAMES[result.experiment.evaluation.map]
    groups, drawn = [], False
    for group in case_groups(result):
        shown = []
        for case in group.cases:
            mine = cohort.slides[case.patient]
            tile_map = map_of(result, case.patient, bags)
            found = draw_heatmap(mine, tile_map, heatmaps, encoder=cohort.encoder, name=name)
            drawn = drawn or tile_map is not None
            notes = [found.note] if found.note else []
            if len(mine) > 1 and found.share:
                notes.insert(0, f"{100 * found.share:.0f} % of the {name} over {len(mine)} slides falls on this one.")
            parts = split_attention(mine, tile_map, encoder=cohort.encoder)
            gallery = draw_top_tiles(next(part for part in parts if part.slide.slide_id == found.slide_id))
            shown.append(
                ShownCase(
                    cohort.patients[case.patient],
                    found.slide_id,
                    case.facts,
                    data_uri(encoded(found.picture, ".jpg"), "jpeg"),
                    " ".join(notes),
                    "" if gallery is None else data_uri(encoded(gallery, ".jpg"), "jpeg"),
                    evidence_of(result, case.patient, bags, tile_map),
                )
            )
            say(f"report: heatmap of {found.slide_id}")
        groups.append((group.title, shown))
    page = template("crossval.html").render(
        title=result.experiment.name or "Cross-validation",
        model=result.model.name,
        endpoint=cohort.endpoint.title,
        headline=headline(result),
        key_numbers=key_numbers(result),
        cautions=cautions(result),
        main=main,
        more_figures=more,
        subgroups=subgroup_table(result.subgroups, result.model, cohort.target),
        subgroup_picture=subgroup_figure(result.subgroups, result.model, figures),
        audit=result.audit,
        repeats=len(result.repeats),
        metrics=metric_table(result),
        flow=(counted(cohort.rows, "row"), counted(cohort.n_slides, "slide"), counted(len(cohort), "patient")),
        left_out=left_out(cohort),
        folds=fold_rows(result),
        splits_hash=result.splits.hash,
        splits_made=splits_made(result),
        training=training,
        tuning=budget_words(result.manifest.get("tuning")),
        groups=[(name, shown) for name, shown in groups if shown],
        map_name=name if drawn else "",
        instead=" (it has attention rollout: evaluation: {map: rollout})" if _has_rollout(result) else "",
        provenance=list(flat(result.manifest)),
    )
    path = result.out / "report.html"
    write_atomic(path, page.encode())
    say(f"report: {path}")
    return path


def _has_rollout(result: CrossvalResult) -> bool:
    return aggregator_card(result.experiment.model.aggregator).rollout


def template(name: str) -> Template:
    """A template of this package in which everything is escaped: ids and column names are others' text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("wsikit.reports", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(name)
