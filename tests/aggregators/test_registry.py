import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
import torch

import wsikit.aggregators.models.abmil
from wsikit.aggregators.base import AggregatorCard
from wsikit.aggregators.registry import (
    aggregator_card,
    aggregator_source,
    create_aggregator,
    list_aggregators,
    register_aggregator,
)
from wsikit.errors import ConfigError, UnknownNameError


def test_the_first_three_are_found_by_their_files_alone() -> None:
    assert {"abmil", "max", "mean"} <= set(list_aggregators())
    assert list_aggregators("m*n") == ["mean"]


def test_an_unknown_name_or_option_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="no aggregator named 'abmli'; did you mean 'abmil'"):
        create_aggregator("abmli", in_dim=4)
    with pytest.raises(UnknownNameError, match="did you mean 'mean'"):
        aggregator_card("means")
    with pytest.raises(ConfigError, match="'abmil' has no option 'embed_dims'; did you mean 'embed_dim'"):
        create_aggregator("abmil", in_dim=4, embed_dims=3)
    with pytest.raises(ConfigError, match=r"'max' has no option 'heads' \(it has no options\)"):
        create_aggregator("max", in_dim=4, heads=3)


@pytest.mark.parametrize("in_dim", [0, -1, 4.0, "4", True, None])
def test_a_width_that_is_none_is_refused(in_dim: object) -> None:
    with pytest.raises(ConfigError, match=r"in_dim=.*expected the width of a feature"):
        create_aggregator("mean", in_dim=in_dim)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("abmil", {"heads": 0}, "heads=0; expected at least 1"),
        ("abmil", {"dropout": 1.0}, "dropout=1.0; expected at least 0 and below 1"),
        ("mean", {"embed_dim": 0}, "embed_dim=0; expected a width"),
        ("gat", {"heads": 0}, "heads=0; expected at least 1"),  # before the width is shared among them
        ("gtp", {"heads": 3}, "'gtp': embed_dim=64; expected a multiple of heads=3"),
        ("panther", {"variance": 0.0}, "variance=0.0; expected above 0"),
        ("ot", {"epsilon": float("nan")}, "epsilon=nan; expected above 0"),
        ("hierarchical", {"dropout": -0.1}, "dropout=-0.1; expected at least 0 and below 1"),
        ("ilra", {"rank": 0}, "rank=0; expected at least 1"),
        ("perceiver", {"latents": 0}, "latents=0; expected at least 1"),
        ("set-transformer", {"seeds": 0}, "seeds=0; expected at least 1"),
    ],
)
def test_an_option_out_of_range_is_refused(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator(name, in_dim=4, **options)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("abmil", {"attention_dim": "a"}, "'abmil': attention_dim='a', str; Input should be a valid integer"),
        ("abmil", {"attention_dim": "64"}, "attention_dim='64', str; Input should be a valid integer"),
        ("abmil", {"dropout": True}, "dropout=True, bool; Input should be a valid number"),
        ("abmil", {"gated": 1}, "gated=1, int; Input should be a valid boolean"),
        ("longnet", {"segments": [64, 1.5]}, r"segments=\[64, 1.5\], list; Input should be a valid integer"),
    ],
)
def test_an_option_of_another_type_is_refused(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_aggregator(name, in_dim=4, **options)


def test_a_whole_number_is_a_number_and_a_list_a_tuple() -> None:
    assert create_aggregator("abmil", in_dim=4, dropout=0).training
    as_list = create_aggregator("longnet", in_dim=4, segments=[16, 32], dilations=[1, 2], seed=0)
    as_tuple = create_aggregator("longnet", in_dim=4, segments=(16, 32), dilations=(1, 2), seed=0)
    assert as_list.state_dict().keys() == as_tuple.state_dict().keys()


def test_a_broken_plugin_is_named_and_the_others_stay(tmp_path: Path) -> None:
    """In a process of its own: a real distribution on the path, one of whose modules cannot be imported."""
    (tmp_path / "broken_plugin.py").write_text("import a_module_that_is_not_there\n")
    (tmp_path / "whole_plugin.py").write_text(
        "from wsikit.aggregators.base import AggregatorCard\n"
        "from wsikit.aggregators.models.mean import Mean\n"
        "from wsikit.aggregators.registry import register_aggregator\n"
        "card = AggregatorCard('my-mean', 'Mean', 'none', repository='none', licence='MIT', attention=False)\n"
        "@register_aggregator(card)\n"
        "class MyMean(Mean):\n"
        "    card = card\n"
    )
    facts = tmp_path / "a_plugin-1.0.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: a-plugin\nVersion: 1.0\n")
    (facts / "entry_points.txt").write_text("[wsikit.aggregators]\nbroken = broken_plugin\nwhole = whole_plugin\n")
    code = (
        "from wsikit.aggregators.registry import aggregator_card, aggregator_source, list_aggregators\n"
        "names = list_aggregators()\n"
        "assert 'abmil' in names and 'my-mean' in names and 'broken' not in names\n"
        "source = aggregator_source('my-mean')\n"
        "assert source['distribution'] == 'a-plugin 1.0' and source['module'] == 'whole_plugin', source\n"
        "aggregator_card('broken')\n"
    )
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    said = "'broken' of a-plugin cannot be used: ModuleNotFoundError: No module named 'a_module_that_is_not_there'"
    assert f"aggregator {said}" in done.stderr.splitlines()
    assert "UnknownNameError: no aggregator named 'broken'" in done.stderr
    assert said in done.stderr.splitlines()[-1]


def test_the_code_of_an_aggregator_is_known_by_its_file() -> None:
    file = Path(wsikit.aggregators.models.abmil.__file__)
    found = aggregator_source("abmil")
    assert found == {"module": "wsikit.aggregators.models.abmil", "sha256": sha256(file.read_bytes()).hexdigest()}
    assert aggregator_source("mean")["sha256"] != found["sha256"]


def test_a_seed_decides_the_weights_and_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()
    first, same, other = (create_aggregator("abmil", in_dim=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(before, torch.get_rng_state())
    for name, value in first.state_dict().items():
        assert torch.equal(value, same.state_dict()[name])
        assert not torch.equal(value, other.state_dict()[name])


def test_without_a_seed_the_generator_decides() -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        drawn = create_aggregator("abmil", in_dim=4).state_dict()
    for name, value in create_aggregator("abmil", in_dim=4, seed=3).state_dict().items():
        assert torch.equal(value, drawn[name])


def test_a_name_can_be_taken_once() -> None:
    card = AggregatorCard(name="mean", summary="-", paper="-", repository="-", licence="-")
    with pytest.raises(ValueError, match="'mean' is already registered by wsikit.aggregators.models.mean"):
        register_aggregator(card)(lambda in_dim: create_aggregator("mean", in_dim=in_dim))
