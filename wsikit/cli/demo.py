"""wsikit demo: the main jobs on slides with planted truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from wsikit.testing.demo import DemoReport

EXAMPLES = """Examples:

wsikit demo

wsikit demo --out /tmp/demo --patients 20"""


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything that the demo makes.")] = Path("demo"),
    patients: Annotated[int, typer.Option(min=10, help="How many patients, one slide each.")] = 80,
    seed: Annotated[int, typer.Option(help="Of the planted cohort.")] = 0,
    workers: Annotated[int | None, typer.Option(help="Worker processes. Default: one per core.")] = None,
) -> None:
    """Make slides with known lesions, extract features, and predict lesions, diagnosis and survival.

    Nothing is downloaded. It ends with the paths to open.
    """
    import numpy as np

    from wsikit.cli._show import LiveProgress, stdout_console
    from wsikit.testing.demo import run_demo

    with LiveProgress() as progress:
        report = run_demo(out, patients=patients, seed=seed, workers=workers, progress=progress, say=progress.say)
    console = stdout_console()
    done = sum(o.ok for o in report.run.outcomes)
    lines = [
        f"{done} of {len(report.run.outcomes)} slides extracted; {report.tiles:,} tiles probed, "
        f"{100 * report.lesion_share:.0f} % of them lesion",
        *(
            f"lesion from a single tile, linear probe on {name}: AUC {np.nanmean(aucs):.3f} "
            f"({np.nanmin(aucs):.3f} to {np.nanmax(aucs):.3f} over {len(aucs)} folds of patients)"
            for name, aucs in report.aucs.items()
        ),
        *_studies(report),
        "open:",
        *(f"  {study.report}   {study.result.experiment.name}: figures, heatmaps, numbers" for study in report.studies),
        f"  {report.picture}   lesions planted and found",
        f"  {report.run.report / 'index.html'}   every slide with its tissue and tiles",
        f"  {report.run.store}   the features: wsikit inspect {report.run.store}",
        f"  {report.slides}   the slides, for QuPath or any viewer",
    ]
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if not report.run.ok:
        raise typer.Exit(1)


def _studies(report: DemoReport) -> list[str]:
    """The main number of each cross-validation, its baselines, and what could be reached."""
    lines = []
    for study in report.studies:
        main = study.result.model.metrics[0]
        value = "not defined" if main.value is None else f"{main.value:.3f}"
        ends = f" (95 % interval {main.interval.low:.3f} to {main.interval.high:.3f})" if main.interval else ""
        beside = ", ".join(
            f"{b.name} {b.metrics[0].value:.3f}" for b in study.result.baselines if b.metrics[0].value is not None
        )
        ceiling = report.ceilings[study.config.stem]
        lines.append(
            f"{study.config.stem}: {study.result.model.name}: {main.name} {value}{ends}; {beside}; "
            f"at best {ceiling:.3f}"
        )
    lines.append(
        f"attention of the label model, lesion against other tiles of the slide: AUC {report.attention_auc:.3f}"
    )
    return lines
