"""What is rebuilt from labelled patches: the library takes the patches back bit for bit, and labels do not leak."""

from __future__ import annotations

import csv
import importlib.util
import io
import sys
import zipfile
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

import wsikit as wk
from wsikit.errors import ConfigError
from wsikit.slides.geojson import read_geojson
from wsikit.slides.tiling import read_tile

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "idc_mil" / "prepare.py"


@pytest.fixture(scope="module")
def idc():
    """The script as a module: a pipeline is no package."""
    spec = importlib.util.spec_from_file_location("idc_mil_prepare", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their annotations up there
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def write_zip(path, patches):
    """``patches``: (patient, x, y, class) -> RGB."""
    with zipfile.ZipFile(path, "w") as files:
        files.writestr("idc/index.csv", "patient,x,y,label,file\n")
        for (patient, x, y, label), rgb in patches.items():
            name = f"idc/{patient}/{patient}_idx5_x{x}_y{y}_class{label}.webp"
            files.writestr(name, imagecodecs.webp_encode(rgb, lossless=True))
    return path


def noise(rng, height=50):
    return rng.integers(0, 256, (height, 50, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def patches():
    """Four patients: 101 and 102 can be of both labels, 103 has no carcinoma, 104 too few class-0 patches."""
    rng = np.random.default_rng(5)
    found = {}
    for patient, benign, carcinoma in ((101, 12, 6), (102, 11, 5), (103, 10, 0), (104, 9, 3)):
        places = rng.permutation(40)[: benign + carcinoma]  # a grid of 8 columns and 5 rows, with gaps
        for i, place in enumerate(places.tolist()):
            x, y = 301 + 50 * (place % 8), 651 + 50 * (place // 8)
            found[patient, x, y, int(i >= benign)] = noise(rng)
    found[102, 301, 901, 0] = noise(rng, height=20)  # cut by the edge of the scan
    found[104, 326, 901, 1] = noise(rng)  # half a tile off
    return found


@pytest.fixture(scope="module")
def archive(patches, tmp_path_factory):
    return write_zip(tmp_path_factory.mktemp("zip") / "idc.zip", patches)


@pytest.fixture(scope="module")
def prepared(idc, archive, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared")
    return out, idc.prepare(archive, out, fraction=0.4, seed=0)


def rows_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def library_reads(out, suffix, spec):
    """slide_id -> {(x, y): RGB}, by the way of an extraction: manifest, outline, tiles, pixels."""
    read = {}
    for entry in wk.collect_slides([], manifest=out / f"manifest{suffix}.csv"):
        with wk.open_slide(entry.path) as slide:
            assert slide.mpp == pytest.approx((4.0, 4.0), rel=1e-6)
            tiles = wk.tile_slide(slide, read_geojson(entry.tissue, slide), spec)
            read[entry.slide_id] = {
                (x, y): read_tile(slide, tiles.choice, 50, (x, y)) for x, y in tiles.coords.tolist()
            }
    return read


def test_patches_are_anchored_counted_and_sorted(idc, archive, patches):
    patients, left = idc.read_patients(archive)
    assert [p.patient_id for p in patients] == ["101", "102", "103", "104"]
    assert (left.patches, left.incomplete, dict(left.off_grid)) == (len(patches), 1, {"104": 1})
    for patient in patients:
        whole = {
            (x, y): (label, rgb)
            for (name, x, y, label), rgb in patches.items()
            if str(name) == patient.patient_id and rgb.shape == (50, 50, 3) and x % 50 == 1
        }
        x0, y0 = min(x for x, _ in whole), min(y for _, y in whole)
        order = sorted(whole, key=lambda place: place[::-1])
        assert patient.xy.tolist() == [[x - x0, y - y0] for x, y in order]
        assert patient.carcinoma.tolist() == [whole[place][0] == 1 for place in order]
        assert all(np.array_equal(rgb, whole[p][1]) for rgb, p in zip(patient.pixels, order, strict=True))
        assert patient.size == (max(x for x, _ in whole) - x0 + 50, max(y for _, y in whole) - y0 + 50)


@pytest.mark.parametrize("suffix", ["", "_all"])
def test_library_takes_back_exactly_the_placed_patches(idc, prepared, archive, suffix):
    out, _ = prepared
    source = {p.patient_id: p for p in idc.read_patients(archive)[0]}
    truth = rows_of(out / f"tile_truth{suffix}.csv")
    read = library_reads(out, suffix, idc.SPEC)
    assert sorted(read) == ([*source] if suffix else ["101", "102", "103"])
    for slide_id, tiles in read.items():
        patient = source[slide_id]
        classes = {(int(r["x"]), int(r["y"])): int(r["class"]) for r in truth if r["slide_id"] == slide_id}
        assert list(tiles) == list(classes)  # the order too: a row of the truth is a row of the bag
        for row, place in enumerate(map(tuple, patient.xy.tolist())):
            assert (place in tiles) or not suffix
            if place in tiles:
                assert np.array_equal(tiles[place], patient.pixels[row])
                assert classes[place] == patient.carcinoma[row]


def test_what_is_not_placed_is_white(idc, prepared):
    out, _ = prepared
    for name, tiles in library_reads(out, "", idc.SPEC).items():
        with wk.open_slide(out / "slides" / f"{name}.tif") as slide:
            rgb = slide.read_region((0, 0), slide.size).copy()
        for x, y in tiles:
            rgb[y : y + 50, x : x + 50] = 255
        assert (rgb == 255).all()


def test_tables_agree(prepared):
    out, summary = prepared
    for suffix in ("", "_all"):
        truth = rows_of(out / f"tile_truth{suffix}.csv")
        cohort = rows_of(out / f"cohort{suffix}.csv")
        for row in cohort:
            classes = [int(r["class"]) for r in truth if r["slide_id"] == row["slide_id"]]
            assert int(row["n_tiles"]) == len(classes)
            assert float(row["carcinoma_fraction"]) == pytest.approx(np.mean(classes), abs=1e-6)
            if not suffix:
                assert int(row["label"]) == max(classes)
        assert summary[f"tiles{suffix or '_composed'}"] == len(truth)
    # 101 and 102 can be positive and two of three are: 12 + round(0.4 * 6) and 11 + 0.4 * 5 tiles
    counts = {row["slide_id"]: (row["label"], int(row["n_tiles"])) for row in rows_of(out / "cohort.csv")}
    assert counts == {"101": ("1", 14), "102": ("1", 13), "103": ("0", 10)}
    assert summary["tile_count_auc"] == 1.0
    assert summary["left_out"] == {"patches": 58, "incomplete": 1, "off_grid": {"104": 1}}


def test_extraction_has_a_feature_for_every_patch(idc, prepared, tmp_path):
    out, _ = prepared
    report = wk.extract_features(
        [], out=tmp_path / "tiles.zarr", encoder="colour", spec=idc.SPEC, manifest=out / "manifest.csv", workers=1
    )
    assert report.ok
    store = wk.open_store(tmp_path / "tiles.zarr")
    truth = rows_of(out / "tile_truth.csv")
    for slide_id in store.slide_ids:
        expected = [[int(r["x"]), int(r["y"])] for r in truth if r["slide_id"] == slide_id]
        assert store.bag(slide_id, encoder="colour").coords.tolist() == expected


def test_same_seed_same_bytes(idc, prepared, archive, tmp_path):
    out, _ = prepared
    idc.prepare(archive, tmp_path, fraction=0.4, seed=0)
    files = [p.relative_to(out) for p in sorted(out.rglob("*")) if p.is_file()]
    assert len(files) == 2 * (3 + 4) + 7
    assert all((tmp_path / name).read_bytes() == (out / name).read_bytes() for name in files)


def test_a_slide_that_does_not_give_its_patches_back_is_refused(idc, archive, tmp_path):
    patient = idc.read_patients(archive)[0][0]
    rows, path, outline = np.arange(len(patient)), tmp_path / "a.tif", tmp_path / "a.geojson"
    idc.write_slide(patient, rows[1:], path, outline)
    idc.check_slide(patient, rows[1:], path, outline)
    with pytest.raises(ValueError, match="17 tiles at mpp 4 .* are not the 18 patches"):
        idc.check_slide(patient, rows, path, outline)
    patient.pixels[-1, 49, 49, 2] ^= 1  # one bit of the last pixel
    with pytest.raises(ValueError, match="are not those of the patch"):
        idc.check_slide(patient, rows[1:], path, outline)


@pytest.fixture(scope="module")
def many(idc):
    """61 patients by their numbers only: 10 to 40 class-0 patches, 0 to 19 of carcinoma (every tenth: none)."""
    rng = np.random.default_rng(1)
    patients = []
    for i in range(61):
        benign, carcinoma = int(rng.integers(10, 41)), int(rng.integers(1, 20)) if i % 10 else 0
        n = benign + carcinoma
        xy = np.stack([50 * np.arange(n), np.zeros(n)], 1).astype(np.int32)
        is_carcinoma = rng.permutation(np.arange(n) < carcinoma)
        patients.append(idc.Patient(str(i), xy, is_carcinoma, np.zeros((n, 0, 0, 3), np.uint8), (50 * n, 50)))
    return patients


@pytest.mark.parametrize("of", ["carcinoma", "tiles"])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.4])
def test_composition_is_what_it_says(idc, many, fraction, of):
    composed = idc.compose(many, fraction=fraction, seed=3, of=of)
    assert [c.patient_id for c in composed] == [p.patient_id for p in many]
    assert sum(c.label for c in composed) == 31  # 61 patients, half of them rounded down get class 0 only
    for patient, slide in zip(many, composed, strict=True):
        benign, available = int((~patient.carcinoma).sum()), int(patient.carcinoma.sum())
        assert set(np.flatnonzero(~patient.carcinoma)) <= set(slide.rows)
        assert np.array_equal(slide.rows, np.unique(slide.rows))
        kept = int(patient.carcinoma[slide.rows].sum())
        if not slide.label:
            assert kept == 0
            continue
        assert 1 <= kept <= available
        if of == "carcinoma":
            assert kept == 1 or abs(kept - fraction * available) <= 0.5
        elif kept < available:
            # one patch more or less would be further from the fraction than a half patch
            assert abs(kept - fraction * (benign + kept)) <= 0.5


def test_a_patient_without_carcinoma_is_never_positive(idc, many):
    free = {p.patient_id for p in many if not p.carcinoma.any()}
    assert len(free) == 7
    for seed in range(5):
        assert not any(c.label for c in idc.compose(many, fraction=0.2, seed=seed) if c.patient_id in free)


def test_dials_of_one_seed_are_nested_and_seeds_differ(idc, many):
    small, large, other = (
        idc.compose(many, fraction=f, seed=s, of="carcinoma") for f, s in ((0.1, 3), (0.4, 3), (0.1, 4))
    )
    assert [c.label for c in small] == [c.label for c in large]
    assert all(set(a.rows) <= set(b.rows) for a, b in zip(small, large, strict=True))
    assert sum(len(c.rows) for c in small) < sum(len(c.rows) for c in large)
    assert [c.label for c in small] != [c.label for c in other]
    first = [
        bool(p.carcinoma[: c.rows[p.carcinoma[c.rows]][0]].any()) for p, c in zip(many, small, strict=True) if c.label
    ]
    assert any(first)  # drawn, not the top rows of the slide


def test_a_patients_draw_does_not_depend_on_who_else_is_there(idc, many):
    chosen = {c.patient_id: c for c in idc.compose(many, fraction=0.4, seed=3) if c.label}
    fewer = {c.patient_id: c for c in idc.compose(many[:40], fraction=0.4, seed=3) if c.label}
    both = chosen.keys() & fewer.keys()
    assert len(both) > 5
    assert all(np.array_equal(chosen[name].rows, fewer[name].rows) for name in both)


@pytest.mark.parametrize("of", ["carcinoma", "tiles"])
def test_matched_counts_are_those_of_class_0_alone(idc, many, of):
    composed = idc.compose(many, fraction=0.4, seed=3, of=of, match_counts=True)
    for patient, slide in zip(many, composed, strict=True):
        assert len(slide.rows) == (~patient.carcinoma).sum()
        assert bool(patient.carcinoma[slide.rows].any()) == bool(slide.label)
        assert patient.carcinoma[slide.rows].mean() <= 0.5  # however much carcinoma and little else a patient has
    plain = idc.compose(many, fraction=0.4, seed=3, of=of)
    assert [c.label for c in composed] == [c.label for c in plain]
    assert idc.tile_count_auc(composed) < idc.tile_count_auc(plain)


def test_tile_count_auc_is_the_share_of_pairs_in_order(idc):
    slides = [idc.Composed(str(n), label, np.arange(n)) for n, label in ((3, 0), (5, 0), (5, 1), (9, 1))]
    assert idc.tile_count_auc(slides) == (1 + 0.5 + 1 + 1) / 4


@pytest.mark.parametrize(
    ("fraction", "of"), [(0.0, "carcinoma"), (1.01, "carcinoma"), (1.0, "tiles"), (float("nan"), "tiles")]
)
def test_impossible_fractions_are_refused(idc, many, fraction, of):
    with pytest.raises(ConfigError, match=f"fraction=.* of {of}; expected more than 0"):
        idc.compose(many, fraction=fraction, seed=0, of=of)


def test_archives_that_cannot_be_used_are_refused(idc, tmp_path):
    rgb = noise(np.random.default_rng(0))
    with zipfile.ZipFile(tmp_path / "named.zip", "w") as files:
        files.writestr("idc/12/12_x1_y1.webp", imagecodecs.webp_encode(rgb, lossless=True))
    with pytest.raises(ConfigError, match=r"'idc/12/12_x1_y1.webp' is not the name of a patch"):
        idc.read_patients(tmp_path / "named.zip")
    with pytest.raises(ConfigError, match=r"patient 12: 2 patches at x, y \(1, 51\)"):
        idc.read_patients(write_zip(tmp_path / "twice.zip", {(12, 1, 51, 0): rgb, (12, 1, 51, 1): rgb}))
    with pytest.raises(ConfigError, match="no patch of 50 x 50 px among its 1 patches"):
        idc.read_patients(write_zip(tmp_path / "cut.zip", {(12, 1, 1, 0): rgb[:20]}))


def test_command_writes_the_cohort_and_refuses_in_words(idc, archive, tmp_path, capsys):
    given = ["--zip", str(archive), "--out", str(tmp_path)]
    idc.main([*given, "--fraction", "0.1", "--seed", "7"])
    assert '"composed_positive": 2' in capsys.readouterr().out
    assert [row["n_tiles"] for row in rows_of(tmp_path / "cohort.csv")] == ["13", "12", "10"]  # at least one
    with pytest.raises(SystemExit, match="2"):
        idc.main([*given, "--fraction", "40"])
    assert "fraction=40.0 of carcinoma" in capsys.readouterr().err


@pytest.fixture(scope="module")
def real_zip(test_data):
    path = test_data / "patches" / "idc.zip"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def test_real_patches_lie_on_a_grid_and_agree_with_the_index(idc, real_zip):
    patients, left = idc.read_patients(real_zip)
    assert (left.patches, left.incomplete, dict(left.off_grid)) == (6997, 73, {})
    assert (len(patients), sum(bool(p.carcinoma.any()) for p in patients)) == (195, 186)
    assert sum((~p.carcinoma).sum() >= idc.MIN_BENIGN for p in patients) == 147
    with zipfile.ZipFile(real_zip) as files:
        index = list(csv.DictReader(io.StringIO(files.read("idc/index.csv").decode())))
    for patient in patients:
        listed = [(int(r["x"]), int(r["y"]), r["label"] == "1") for r in index if r["patient"] == patient.patient_id]
        assert sum(c for _, _, c in listed) == patient.carcinoma.sum()  # no carcinoma patch is cut by an edge
        placed = {(x, y, bool(c)) for (x, y), c in zip(patient.xy.tolist(), patient.carcinoma, strict=True)}
        x0, y0 = patient.xy[0].tolist()
        shifts = {(x - x0, y - y0) for x, y, _ in listed}  # the first patch is one of those listed
        assert any({(a + dx, b + dy, c) for a, b, c in placed} <= set(listed) for dx, dy in shifts)


def test_real_patches_come_back_bit_for_bit(idc, real_zip, tmp_path):
    with zipfile.ZipFile(real_zip) as files, zipfile.ZipFile(tmp_path / "few.zip", "w") as few:
        names = files.namelist()
        chosen = sorted({n.split("/")[1] for n in names if n.count("/") == 2})[::50]
        for name in names:
            if name.split("/")[1] in chosen:
                few.writestr(name, files.read(name))
    summary = idc.prepare(tmp_path / "few.zip", tmp_path, fraction=0.2, seed=0)
    read = library_reads(tmp_path, "_all", idc.SPEC)
    patients, _ = idc.read_patients(tmp_path / "few.zip")
    assert sorted(read) == chosen == [p.patient_id for p in patients]
    assert summary["tiles_all"] == sum(map(len, read.values()))
    for patient in patients:
        tiles = read[patient.patient_id]
        assert list(tiles) == list(map(tuple, patient.xy.tolist()))
        assert all(np.array_equal(a, b) for a, b in zip(tiles.values(), patient.pixels, strict=True))
