"""Plant a cohort: slides on disk, a table of patients, and all of the truth beside them."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from wsikit.processes import cores, in_processes
from wsikit.testing.outcomes import Outcomes, ceilings, draw_outcomes
from wsikit.testing.planted import MPP, plant_slide
from wsikit.testing.stains import site
from wsikit.testing.truth import SlideTruth


@dataclass(frozen=True)
class CohortTruth:
    """A planted cohort on disk.

    Args:
        folder: Holds ``slides/*.svs``, ``cohort.csv``, ``truth/`` and ``ceilings.json``.
        slide_ids: In the order of ``cohort.csv``.
        patient_ids: Of each slide.
        outcomes: Of each patient, in order of ``patient_id``.
        ceilings: Best expected score of each task, with its method.
        size_px: Side of the slides.
    """

    folder: Path
    slide_ids: tuple[str, ...]
    patient_ids: tuple[str, ...]
    outcomes: Outcomes
    ceilings: dict[str, dict[str, float | str]]
    size_px: int

    @property
    def csv(self) -> Path:
        """The table that a user would have: no truth in it."""
        return self.folder / "cohort.csv"

    def slide_path(self, slide_id: str) -> Path:
        """The slide's file."""
        return self.folder / "slides" / f"{slide_id}.svs"

    def slide(self, slide_id: str) -> SlideTruth:
        """The truth about one slide."""
        return SlideTruth.load(self.folder / "truth", slide_id, size_px=self.size_px, mpp=MPP)

    def tile_truth(
        self, slide_id: str, coords: npt.NDArray[np.integer], tile_px_level0: float
    ) -> npt.NDArray[np.float64]:
        """Share of each tile's area that is lesion, (N,) from 0 to 1.

        Args:
            slide_id: One of ``slide_ids``.
            coords: Top-left corners (N, 2), x then y, level-0 px.
            tile_px_level0: Side of the tiles in level-0 px.
        """
        return self.slide(slide_id).tile_truth(coords, tile_px_level0)


@dataclass(frozen=True)
class _Job:
    path: Path
    truth: Path
    seed: int
    size_px: int
    site: int
    tissue_fraction: float
    lesion_fraction: float
    grade: float


def _plant(job: _Job) -> None:
    truth = plant_slide(
        job.path, seed=job.seed, size_px=job.size_px, site=job.site, tissue_fraction=job.tissue_fraction,
        lesion_fraction=job.lesion_fraction, grade=job.grade,
    )  # fmt: skip
    truth.save(job.truth)


def plant_cohort(
    out_dir: str | os.PathLike[str],
    *,
    patients: int = 80,
    slides_per_patient: int = 1,
    seed: int = 0,
    size_px: int = 2048,
    sites: int = 4,
    processes: int | None = None,
) -> CohortTruth:
    """Write a cohort whose labels and survival follow from lesions of known extent.

    ``out_dir`` gets ``slides/<slide_id>.svs``; ``cohort.csv`` (slide_id, patient_id, path, site,
    age, label 0/1, time in months, event True = it happened); ``truth/`` with a mask and GeoJSON
    per slide and ``truth.csv`` (lesion share, grade, log hazard, probability of the label); and
    ``ceilings.json``. Equal arguments give equal bytes, whatever ``processes`` is.

    Args:
        out_dir: Created where missing; files of the same name are replaced.
        patients: How many; half of them are likely positive.
        slides_per_patient: Slides of a patient share its lesion's share and grade, and its site.
        seed: Of everything.
        size_px: Side of the square slides at level 0, 0.5 um per px.
        sites: How many sites; each has its own stains and scanner, none predicts the label.
        processes: Worker processes; None takes all cores, 1 draws here.

    Example:
        >>> cohort = plant_cohort("/tmp/planted", patients=2, size_px=512, processes=1)
        >>> cohort.slide_ids
        ('P000-S0', 'P001-S0')
    """
    folder = Path(out_dir)
    (folder / "slides").mkdir(parents=True, exist_ok=True)
    (folder / "truth").mkdir(parents=True, exist_ok=True)
    outcomes = draw_outcomes(patients, seed=seed, sites=sites)
    jobs: list[_Job] = []
    slide_ids: list[str] = []
    patient_ids: list[str] = []
    for p in range(patients):
        for s in range(slides_per_patient):
            slide_ids.append(f"P{p:03d}-S{s}")
            patient_ids.append(f"P{p:03d}")
            jobs.append(
                _Job(
                    folder / "slides" / f"{slide_ids[-1]}.svs", folder / "truth",
                    int(np.random.SeedSequence([seed, p, s]).generate_state(1)[0]), size_px, int(outcomes.site[p]),
                    float(outcomes.tissue_fraction[p]), float(outcomes.lesion_fraction[p]), float(outcomes.grade[p]),
                )
            )  # fmt: skip
    workers = min(cores() if processes is None else processes, len(jobs))
    for _ in in_processes(_plant, jobs, workers):
        pass
    best = ceilings(outcomes, seed=seed)
    cohort = CohortTruth(folder, tuple(slide_ids), tuple(patient_ids), outcomes, best, size_px)
    _write_tables(cohort)
    (folder / "ceilings.json").write_text(json.dumps(best, indent=2) + "\n")
    return cohort


def _write_tables(cohort: CohortTruth) -> None:
    o = cohort.outcomes
    with cohort.csv.open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["slide_id", "patient_id", "path", "site", "age", "label", "time", "event"])
        for slide, patient in zip(cohort.slide_ids, cohort.patient_ids, strict=True):
            p = int(patient[1:])
            table.writerow(
                [slide, patient, f"slides/{slide}.svs", site(int(o.site[p])).name, o.age[p], int(o.label[p]), o.time[p],
                 bool(o.event[p])]
            )  # fmt: skip
    with (cohort.folder / "truth" / "truth.csv").open("w", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["slide_id", "lesion_fraction", "grade", "tissue_fraction", "label_probability", "log_hazard"])
        for slide, patient in zip(cohort.slide_ids, cohort.patient_ids, strict=True):
            p = int(patient[1:])
            table.writerow(
                [slide, o.lesion_fraction[p], o.grade[p], o.tissue_fraction[p], round(float(o.label_probability[p]), 5),
                 o.log_hazard[p]]
            )  # fmt: skip
