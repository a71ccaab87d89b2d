"""A planted effect is what it says, where it says; the pipeline finds a large one, and none where there is none."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys

import numpy as np
import pytest
import yaml

from wsikit.errors import ConfigError
from wsikit.evaluation.bootstrap import Interval
from wsikit.evaluation.result import Metric
from wsikit.evaluation.spike import Spiked, SpikedStore, SpikeResult, _direction, spike
from wsikit.reports.spike import write_spike
from wsikit.store.reader import open_store


def test_a_spiked_store_adds_the_vector_to_some_tiles_and_nothing_else(planted):
    real = open_store(planted / "features.zarr")
    vector = np.arange(8, dtype=np.float32)
    chosen = frozenset({"s001-0", "s002-0"})
    store = SpikedStore(real.path, vector=vector, share=0.25, slides=chosen, seed=1)
    again = pickle.loads(pickle.dumps(store))  # as worker processes get it
    for name in ("s001-0", "s002-0", "s003-0"):
        before, after = real.bag(name, encoder="toy"), store.bag(name, encoder="toy")
        added = after.x.astype(np.float32) - before.x.astype(np.float32)
        rows = np.flatnonzero(np.abs(added).sum(1))
        assert len(rows) == (round(0.25 * len(before)) if name in chosen else 0)
        np.testing.assert_array_equal(rows, store.rows_of(name, len(before)))
        np.testing.assert_allclose(added[rows], np.tile(vector, (len(rows), 1)), atol=0.01)
        np.testing.assert_array_equal(again.bag(name, encoder="toy").x, after.x)
        np.testing.assert_array_equal(after.coords, before.coords)
    none = SpikedStore(real.path, vector=vector, share=0.0, slides=chosen, seed=1)
    np.testing.assert_array_equal(none.bag("s001-0", encoder="toy").x, real.bag("s001-0", encoder="toy").x)
    other = SpikedStore(real.path, vector=vector, share=0.25, slides=chosen, seed=2)
    drawn = [[tuple(one.rows_of(f"s{i}", 100)) for i in range(3)] for one in (store, other)]
    assert drawn[0] == [()] * 3
    rows = {tuple(one.rows_of(name, 100)) for one in (store, other) for name in chosen}
    assert len(rows) == 4, "each slide and seed has tiles of its own"


def test_a_large_effect_is_found_and_none_is_not(planted, experiment, tmp_path):
    asked = experiment(planted, tmp_path / "run", kind="survival", training={"epochs": 15})
    said: list[str] = []
    result = spike(asked, shares=[0.5], strength=8, folds=2, seeds=2, workers=1, say=said.append)
    control, large = result.spikes
    assert (control.share, large.share) == (0.0, 0.5)
    assert large.found
    assert large.metric.value is not None
    assert large.metric.value > 0.8
    assert not control.found
    assert control.metric.interval is not None
    assert control.metric.interval.low < 0.5
    assert len(said) == 2
    assert large.actual == pytest.approx(0.5, abs=0.03)
    first, last = result.sentences()
    assert first.startswith("An effect of 8 spreads in 49 % of the tiles would have been found (AUC ")
    assert last.startswith("Without any effect: AUC ")
    assert last.endswith("as it should be.")
    assert not list((tmp_path / "run" / "spike").rglob("*.safetensors")), "the models are not kept"
    html = write_spike(result, tmp_path / "spike.html", title="<b>x").read_text()
    assert first in html
    assert "&lt;b&gt;x" in html
    assert html.count("data:image/png;base64,") == 1
    assert "2 folds, 1 model each, 2 times with other labels" in html


def test_a_share_below_one_tile_is_said_as_it_came_to():
    """1 % of a slide of 10 tiles is one tile, which is 10 %: nobody may read that 1 % would have been found."""
    metric = Metric("AUC", 0.9, Interval(0.8, 0.95, 0.95, 100, 0))
    none = Spiked(0.0, 0.0, 0.0, Metric("AUC", 0.5, Interval(0.4, 0.6, 0.95, 100, 0)))
    result = SpikeResult((none, Spiked(0.01, 0.1, 1.0, metric)), 3.0, 1.0, 40, 3, 1, 1, "abmil on toy")
    assert result.sentences()[0].startswith("An effect of 3 spreads in 10 % of the tiles would have been found")


def test_strength_is_in_spreads_of_the_tiles(planted):
    rng = np.random.default_rng(0)
    sample = (rng.normal(size=(20_000, 3)) * [1, 5, 20] + 7).astype(np.float32)
    for seed in range(4):
        vector = _direction(sample, 3.0, np.random.default_rng(seed))
        along = sample @ (vector / np.linalg.norm(vector))
        assert np.linalg.norm(vector) == pytest.approx(3 * along.std(), rel=1e-3)
    with pytest.raises(ConfigError, match="all tiles have the same features"):
        _direction(np.ones((10, 3), np.float32), 3.0, rng)


def test_settings_out_of_range_are_refused(planted, experiment, tmp_path):
    asked = experiment(planted, tmp_path / "run")
    for shares in ([0.0], [1.5], [], [0.1, 0.1]):
        with pytest.raises(ConfigError, match="above 0 and up to 1"):
            spike(asked, shares=shares)
    with pytest.raises(ConfigError, match="strength=-1, seeds=1"):
        spike(asked, strength=-1)


@pytest.mark.slow
def test_the_command_writes_the_page(planted, tmp_path):
    config = {
        "cohort": str(planted / "cohort.csv"), "stores": str(planted / "features.zarr"), "encoder": "toy",
        "endpoint": {"kind": "class", "column": "label", "classes": ["0", "1"]}, "out": str(tmp_path / "run"),
        "training": {"epochs": 3, "device": "cpu"}, "evaluation": {"bootstrap": 100},
    }  # fmt: skip
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    words = ["spike", "config.yaml", "--share", "0.1", "--share", "0.5", "--json", "--workers", "1"]
    done = subprocess.run([sys.executable, "-m", "wsikit", *words], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [one["share"] for one in found["result"]["spikes"]] == [0.0, 0.1, 0.5]
    assert (tmp_path / "run" / "spike.html").exists()
