"""The map of tiles that is drawn: of which kind, and the mean of several models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from wsikit.aggregators.registry import aggregator_card
from wsikit.aggregators.rollout import rollout_aggregators
from wsikit.cohort.bags import BagBatch
from wsikit.errors import ConfigError
from wsikit.evaluation.attribution import Map, attention_map, rollout_map
from wsikit.training.bundle import Bundle

MapKind = Literal["attention", "rollout"]
"""What a map of tiles can show: attention of the last layer, or through all layers."""

MAP_NAMES: dict[MapKind, str] = {"attention": "attention", "rollout": "attention rollout"}
"""How each kind is called in reports."""


def check_map_kind(kind: str, aggregator: str) -> MapKind:
    """The kind of map, if there is one of this model.

    A model without attention has no attention map, and that is no error: its slides are drawn as they are.

    Raises:
        ConfigError: No such kind, or an aggregator without rollout.

    Example:
        >>> check_map_kind("rollout", "transmil")
        'rollout'
    """
    found = next((known for known in MAP_NAMES if known == kind), None)
    if found is None:
        raise ConfigError(f"map {kind!r}; expected {' or '.join(map(repr, MAP_NAMES))}")
    if found == "rollout" and not aggregator_card(aggregator).rollout:
        raise ConfigError(
            f"map 'rollout': aggregator {aggregator!r} has no attention rollout; those that have: "
            f"{', '.join(rollout_aggregators())}; ask for 'attention'"
        )
    return found


def mean_map(bundles: Sequence[Bundle], bag: BagBatch, *, kind: MapKind) -> Map | None:
    """The map of one bag, mean over some models.

    Args:
        bundles: The models of one fold, or one model.
        bag: One bag of N tiles, with the edges that the models use.
        kind: What it shows.

    Returns:
        (N,), or None for the attention of models that have none. Attention and rollout sum to 1 (that of ``transmil``
        in absolute values, as some are negative).

    Raises:
        ConfigError: Other than one bag, or rollout of models that have none.
    """
    maps = [rollout_map(b.model, bag) if kind == "rollout" else attention_map(b.model, bag) for b in bundles]
    there = [one for one in maps if one is not None]
    return np.mean(there, axis=0) if there else None
