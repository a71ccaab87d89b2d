"""A planted cohort: its table, its hidden truth, what predicts the label and what must not."""

import csv
import json
from pathlib import Path

import numpy as np
import openslide
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsikit import create_encoder
from wsikit.testing import CohortTruth, plant_cohort
from wsikit.testing.outcomes import ceilings, draw_outcomes, draw_times, harrell_c


def two_sided(auc: float) -> float:
    return max(auc, 1 - auc)


def test_the_table_has_every_slide_and_no_truth(cohort: CohortTruth) -> None:
    with cohort.csv.open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["slide_id", "patient_id", "path", "site", "age", "label", "time", "event"]
    assert tuple(row["slide_id"] for row in rows) == cohort.slide_ids
    for row in rows:
        with openslide.OpenSlide(cohort.folder / row["path"]) as slide:
            assert slide.dimensions == (512, 512)
        truth = cohort.slide(row["slide_id"])
        wanted = cohort.outcomes.lesion_fraction[int(row["patient_id"][1:])]
        assert truth.lesion_fraction == pytest.approx(wanted, abs=0.03)
        share = cohort.tile_truth(row["slide_id"], np.array([[0, 0]]), 512)
        assert share[0] == pytest.approx(truth.mask("lesion").mean())
    assert set(json.loads((cohort.folder / "ceilings.json").read_text())) == {
        "label_auc", "survival_c_index", "tile_lesion_auc"
    }  # fmt: skip


def test_the_same_bytes_from_one_process_as_from_two(cohort: CohortTruth, tmp_path: Path) -> None:
    again = plant_cohort(tmp_path, patients=6, size_px=512, seed=3, processes=1)
    for path in sorted(p for p in cohort.folder.rglob("*") if p.is_file()):
        assert path.read_bytes() == (again.folder / path.relative_to(cohort.folder)).read_bytes(), path.name


def test_slides_of_a_patient_share_the_lesion_but_not_the_picture(tmp_path: Path) -> None:
    cohort = plant_cohort(tmp_path, patients=1, slides_per_patient=2, size_px=512, seed=1, processes=1)
    first, second = (cohort.slide_path(slide).read_bytes() for slide in cohort.slide_ids)
    assert cohort.patient_ids == ("P000", "P000")
    assert first != second


@pytest.mark.parametrize("seed", range(5))
def test_neither_area_nor_site_nor_age_tells_the_label(seed: int) -> None:
    truth = draw_outcomes(80, seed=seed)
    assert two_sided(roc_auc_score(truth.label, truth.tissue_fraction)) < 0.55
    for s in range(4):
        assert truth.label[truth.site == s].mean() == pytest.approx(truth.label.mean(), abs=0.12)
    assert roc_auc_score(truth.label, truth.lesion_fraction) > 0.97
    assert 0.55 <= truth.event.mean() <= 0.65
    assert (truth.time > 0).all()


def test_the_hazard_is_what_the_times_follow() -> None:
    truth = draw_outcomes(3000, seed=1)
    found = harrell_c(truth.log_hazard, truth.time, truth.event)
    assert found == pytest.approx(float(ceilings(truth, draws=3)["survival_c_index"]["ceiling"]), abs=0.02)
    assert harrell_c(truth.age, truth.time, truth.event) < found - 0.1
    assert 0.68 < found < 0.85


def test_censoring_does_not_depend_on_the_hazard() -> None:
    """Equal hazards: whoever is censored early is no different from who is censored late."""
    rng = np.random.default_rng(0)
    marker = rng.normal(size=4000)
    time, event = draw_times(rng, np.zeros(4000))
    assert harrell_c(marker, time, event) == pytest.approx(0.5, abs=0.02)
    assert harrell_c(marker, time, ~event) == pytest.approx(0.5, abs=0.03)


def test_harrell_by_hand() -> None:
    risk, time = np.array([3.0, 2.0, 2.0, 1.0]), np.array([1.0, 2.0, 3.0, 4.0])
    assert harrell_c(risk, time, np.array([True, True, True, False])) == pytest.approx(5.5 / 6)
    assert harrell_c(-risk, time, np.array([True, False, False, False])) == 0.0


@pytest.mark.slow
def test_colour_does_not_find_the_lesion_and_texture_does(tmp_path: Path) -> None:
    """And nothing that is cheap to know about a slide tells its label."""
    cohort = plant_cohort(tmp_path, patients=80, seed=11)
    tiles, lesion, patient, counts = [], [], [], []
    grid = np.stack(np.meshgrid(np.arange(0, 2048, 256), np.arange(0, 2048, 256)), -1).reshape(-1, 2)
    for number, slide_id in enumerate(cohort.slide_ids):
        truth = cohort.slide(slide_id)
        good = truth.share("tissue", grid, 256) >= 0.5
        with openslide.OpenSlide(cohort.slide_path(slide_id)) as slide:
            for x, y in grid[good].tolist():
                tiles.append(np.asarray(slide.read_region((x, y), 0, (256, 256)))[..., :3])
        lesion.append(truth.tile_truth(grid[good], 256))
        patient.append(np.full(int(good.sum()), number))
        counts.append(int(good.sum()))
    positive, group, pixels = np.concatenate(lesion) >= 0.5, np.concatenate(patient), np.stack(tiles)

    auc = {}
    for name in ("colour", "texture"):
        encoder = create_encoder(name)
        parts = np.array_split(pixels[:, 16:240, 16:240], len(pixels) // 64 + 1)
        x = np.concatenate([np.asarray(encoder.encode(part)) for part in parts])
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
        score = cross_val_predict(probe, x, positive, groups=group, cv=GroupKFold(5), method="predict_proba")[:, 1]
        auc[name] = roc_auc_score(positive, score)
    assert auc["colour"] <= 0.65
    assert auc["texture"] >= 0.85

    label = cohort.outcomes.label
    sizes = [cohort.slide_path(slide_id).stat().st_size for slide_id in cohort.slide_ids]
    area = [cohort.slide(slide_id).tissue_fraction for slide_id in cohort.slide_ids]
    for confound in (sizes, area, counts):
        assert two_sided(roc_auc_score(label, confound)) <= 0.6
