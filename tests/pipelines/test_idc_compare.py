"""The comparison of aggregators: planted tiles that the maps have to find, and pairs and p worked out by hand."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import wsikit as wk
from wsikit.cohort.endpoints import ClassLabel
from wsikit.evaluation.result import Round
from wsikit.evaluation.run_files import StoredRun
from wsikit.figures.forest import ForestRow

HERE = Path(__file__).resolve().parents[2] / "pipelines" / "idc_mil"
PATIENTS, TILES, TILE = 40, 12, 50


@pytest.fixture(scope="module")
def scripts():
    """The scripts as modules: a pipeline is no package."""
    sys.path.insert(0, str(HERE))
    names = ("maps", "rows", "compare")
    try:
        yield {name: importlib.import_module(name) for name in names}
    finally:
        sys.path.remove(str(HERE))
        for name in names:
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """As prepare.py and wsikit extract leave it: half of the patients have three tiles of another kind."""
    out, rng = tmp_path_factory.mktemp("idc"), np.random.default_rng(0)
    features, coords, cohort, truth = {}, {}, ["slide_id,patient_id,label"], ["slide_id,x,y,class"]
    for number in range(PATIENTS):
        name, label = f"{number:05d}", number % 2
        x = rng.normal(size=(TILES, 8))
        kind = np.zeros(TILES, int)
        kind[rng.permutation(TILES)[: 3 * label]] = 1
        x[kind == 1, 0] += 4
        features[name] = x
        coords[name] = np.stack([np.arange(TILES) % 4, np.arange(TILES) // 4], 1) * TILE
        cohort.append(f"{name},{name},{label}")
        truth += [f"{name},{x},{y},{k}" for (x, y), k in zip(coords[name], kind, strict=True)]
    wk.store_features(
        out / "tiles.zarr", features, encoder="texture", source="drawn", coords=coords, tile_level0_px=TILE
    )
    (out / "cohort.csv").write_text("\n".join(cohort) + "\n")
    (out / "tile_truth.csv").write_text("\n".join(truth) + "\n")
    return out


def test_every_aggregator_and_baseline_has_its_line(scripts, folder, capsys, monkeypatch):
    compare = scripts["compare"]
    quick = (HERE / "compare.yaml").read_text()
    for dear, cheap in (
        ("folds: 5", "folds: 2"),
        ("bootstrap: 1000", "bootstrap: 100"),
        ("{tile", "{epochs: 10, tile"),
    ):
        assert dear in quick
        quick = quick.replace(dear, cheap)
    (folder / "compare.yaml").write_text(quick)
    monkeypatch.setattr(compare, "HERE", folder)
    monkeypatch.setattr(compare, "REPEATS", 2)
    compare.run(folder, ["max", "mean", "abmil", "dtfd"], workers=1)
    table = (folder / "compare" / "table.md").read_text()
    head, _, *lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in head][3] == "minus abmil"
    names = ["abmil", "dtfd", "max", "mean", "linear probe on mean texture", "number of tiles"]
    assert [line[0].strip() for line in lines] == names
    cells = {line[0].strip(): [cell.strip() for cell in line] for line in lines}
    auc = {name: float(of[2].split()[0]) for name, of in cells.items()}
    assert min(auc["abmil"], auc["dtfd"]) > 0.8  # three tiles of twelve are moved by four spreads
    assert auc["number of tiles"] == 0.5  # equally many in all
    assert cells["abmil"][3:5] == ["", ""]
    for name in names[1:]:
        value, low, high = map(float, re.fullmatch(r"(\S+) \[(\S+), (\S+)\]", cells[name][3]).groups())
        assert value == pytest.approx(auc[name] - auc["abmil"], abs=0.0011)
        assert low <= value <= high
    assert float(cells["number of tiles"][4]) < 0.05 < float(cells["linear probe on mean texture"][4])
    attention, gradient = ({n: cells[n][k].split()[0] for n in names[:4]} for k in (5, 6))
    assert float(attention["abmil"]) > 0.8
    assert (attention["max"], attention["mean"], gradient["dtfd"]) == ("—", "—", "—")
    assert float(gradient["mean"]) > 0.7  # a linear model of the tiles
    said = re.search(r"abmil, folds dealt 2 times: AUC (\S+), (\S+); SD (\S+)", table)
    first, second, spread = map(float, said.groups())
    assert first == auc["abmil"]
    assert spread == pytest.approx(abs(first - second) / 2**0.5, abs=0.001)
    assert "dtfd: AUC" in capsys.readouterr().out
    assert (folder / "compare" / "forest.png").stat().st_size > 10_000


def test_pairs_are_of_one_slide_and_of_slides_that_have_both(scripts):
    carcinoma = [np.array(c, bool) for c in ([1, 0, 0], [0, 1], [0, 0], [1, 0])]
    maps = [np.array([0.1, 0.9, 0.0]), np.array([10.0, 20.0]), np.array([5.0, 6.0]), None]
    found = scripts["maps"].tile_auc(maps, carcinoma, name="x")
    assert found.value == pytest.approx(2 / 3)  # one of two pairs of the first slide, and the second slide's
    assert found.low <= found.value <= found.high


def test_p_is_corrected_over_all_lines_and_stays_with_its_own(scripts):
    rows = scripts["rows"]
    label = np.arange(60) % 2
    patients = tuple(f"p{i:02d}" for i in range(60))
    endpoint = ClassLabel("label", ("0", "1"))
    target = endpoint.parse([{"label": str(k)} for k in label], patients)
    rng = np.random.default_rng(3)

    def run(name, score):
        once = (Round(np.stack([1 - score, score], 1), np.zeros(60, np.int64)),)
        return StoredRun(name, Path(name), endpoint, patients, target, once, False)

    good = run("good", np.clip(label * 0.5 + rng.uniform(0, 0.45, 60), 0, 1))
    lines = [rows.Row(good, ForestRow("good", 1, 1, 1), None)]
    for name, score in (("same", good.rounds[0].prediction[:, 1]), ("noise", rng.uniform(size=60))):
        gap = rows.compare_runs([run(name, score), good]).differences[0]
        lines.append(rows.Row(run(name, score), ForestRow(name, 0.5, 0.4, 0.6), gap))
    text = rows.table(lines).splitlines()
    assert text[3].split(" | ")[3:5] == ["+0.000 [+0.000, +0.000]", "1.00"]
    assert text[4].split(" | ")[4] == "0.00"
    assert float(text[4].split(" | ")[3].split()[0]) < -0.3
    assert text[0].split(" | ")[3] == "minus good"


def test_width_is_one_for_all_that_have_one(scripts):
    compare = scripts["compare"]
    assert compare.model_of("transmil").options == {"embed_dim": 128}
    assert compare.model_of("mean").options == {}  # its default is not to project
    assert compare.model_of("patch-gcn").options == {}
    assert [compare.sees(name) for name in ("abmil", "transmil", "gin", "deepgraphsurv")] == [
        "a set", "places", "neighbours", "alike tiles",
    ]  # fmt: skip
