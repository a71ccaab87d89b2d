"""What every registered aggregator promises; a new one is tested here without a line being added."""

from functools import partial

import pytest

from wsikit.aggregators.registry import aggregator_card, create_aggregator, list_aggregators
from wsikit.testing.aggregator_contract import CLAUSES, check_aggregator, check_whole_slide

OPTIONS = [
    ("abmil", {"gated": False}),
    ("abmil", {"heads": 3, "dropout": 0.25}),
    ("acmil", {"branches": 1}),
    ("additive", {"instance_bias": True, "dropout": 0.25}),
    ("clam-mb", {"classes": 3, "subtyping": True, "instance_loss": "ce"}),
    ("clam-sb", {"subtyping": True}),
    ("dsmil", {"classes": 3, "nonlinear": False, "passing_value": True, "dropout": 0.25}),
    ("dtfd", {"classes": 3, "end_to_end": True}),
    ("mean", {"embed_dim": 8}),
    ("quantile", {"classes": 3, "alpha": 0.3, "beta": 0.3}),
    ("topk", {"k": 1, "share": 0.3}),
]


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("name", list_aggregators())
def test_clause_holds(name: str, clause: str) -> None:
    CLAUSES[clause](partial(create_aggregator, name, in_dim=24))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_contract_holds_with_other_options(name: str, options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, name, in_dim=24, **options))


@pytest.mark.parametrize("clause", [name for name in CLAUSES if name != "any_number_of_outputs"])
@pytest.mark.parametrize("distillation", ["maxs", "maxmins"])
def test_clause_holds_for_a_model_that_refuses_a_single_output(distillation: str, clause: str) -> None:
    CLAUSES[clause](partial(create_aggregator, "dtfd", in_dim=24, distillation=distillation, instances=2))


@pytest.mark.slow
@pytest.mark.parametrize("name", list_aggregators())
def test_a_bag_as_long_as_a_large_slide_fits(name: str) -> None:
    check_whole_slide(partial(create_aggregator, name, in_dim=24))


@pytest.mark.parametrize("name", list_aggregators())
def test_card_is_that_of_the_model_and_says_where_it_comes_from(name: str) -> None:
    card = aggregator_card(name)
    assert create_aggregator(name, in_dim=24).card == card
    assert card.name == name
    assert all([card.summary, card.paper, card.repository, card.licence])
