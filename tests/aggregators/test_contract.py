"""What every registered aggregator promises; a new one is tested here without a line being added."""

from functools import partial

import pytest

from wsikit.aggregators.registry import aggregator_card, create_aggregator, list_aggregators
from wsikit.testing.aggregator_contract import CLAUSES, check_aggregator

OPTIONS = [
    ("abmil", {"gated": False}),
    ("abmil", {"heads": 3, "dropout": 0.25}),
    ("mean", {"embed_dim": 8}),
]


@pytest.mark.parametrize("clause", CLAUSES)
@pytest.mark.parametrize("name", list_aggregators())
def test_clause_holds(name: str, clause: str) -> None:
    CLAUSES[clause](partial(create_aggregator, name, in_dim=24))


@pytest.mark.parametrize(("name", "options"), OPTIONS)
def test_contract_holds_with_other_options(name: str, options: dict[str, object]) -> None:
    check_aggregator(partial(create_aggregator, name, in_dim=24, **options))


@pytest.mark.parametrize("name", list_aggregators())
def test_card_is_that_of_the_model_and_says_where_it_comes_from(name: str) -> None:
    card = aggregator_card(name)
    assert create_aggregator(name, in_dim=24).card == card
    assert card.name == name
    assert all([card.summary, card.paper, card.repository, card.licence])
