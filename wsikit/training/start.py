"""Start an aggregator from given weights, and say exactly which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from wsikit.aggregators.base import Aggregator
from wsikit.errors import ConfigError
from wsikit.provenance import sha256_file
from wsikit.training.bundle import read_bundle

_OF_AGGREGATOR = "aggregator."


@dataclass(frozen=True)
class StartReport:
    """What a training started from.

    Attributes:
        file: Name of the bundle.
        sha256: Of its bytes.
        loaded: Names of the aggregator's tensors that were taken: all it has.
        left: Names of those in the bundle that were not: its head.
    """

    file: str
    sha256: str
    loaded: tuple[str, ...]
    left: tuple[str, ...]


@dataclass(frozen=True)
class Start:
    """Weights to start from.

    Attributes:
        path: The bundle.
        mean: (D,) that was subtracted from the features the weights are of.
        scale: (D,) or (D, D) that they were multiplied by.
        tensors: All of the bundle.
    """

    path: Path
    mean: npt.NDArray[np.float32]
    scale: npt.NDArray[np.float32]
    tensors: Mapping[str, Tensor]

    def into(self, aggregator: Aggregator) -> StartReport:
        """Load the weights.

        Raises:
            ConfigError: Any tensor is missing, left over or of another shape; all of them are named, and nothing
                is loaded.
        """
        given = {
            name.removeprefix(_OF_AGGREGATOR): value
            for name, value in self.tensors.items()
            if name.startswith(_OF_AGGREGATOR)
        }
        own = aggregator.state_dict()
        wrong = [f"no {name!r} in the file" for name in sorted(own.keys() - given.keys())]
        wrong += [f"{name!r} is not of this aggregator" for name in sorted(given.keys() - own.keys())]
        wrong += [
            f"{name!r} is {tuple(given[name].shape)}, expected {tuple(value.shape)}"
            for name, value in own.items()
            if name in given and given[name].shape != value.shape
        ]
        if wrong:
            shown = "; ".join(wrong[:8]) + (f"; and {len(wrong) - 8} more" if len(wrong) > 8 else "")
            raise ConfigError(
                f"{self.path}: its weights do not fit aggregator {aggregator.card.name!r} with these options: {shown}"
            )
        aggregator.load_state_dict(given)
        loaded = {_OF_AGGREGATOR + name for name in given} | {"mean", "scale"}
        left = tuple(sorted(self.tensors.keys() - loaded))
        return StartReport(self.path.name, sha256_file(self.path), tuple(sorted(given)), left)


def load_start(path: Path, encoder: str) -> Start:
    """Read weights to start from.

    Args:
        path: A bundle.
        encoder: Key of the features that will be trained on.

    Raises:
        ConfigError: Not a bundle, or one of features of another encoder: equal shapes would hide that.
    """
    facts, tensors = read_bundle(path)
    theirs = facts["encoder"]["key"]
    if theirs != encoder:
        raise ConfigError(
            f"{path}: its weights are of features {theirs!r}, and these are {encoder!r}; start from a model "
            "of the same encoder"
        )
    return Start(path, tensors["mean"].float().numpy(), tensors["scale"].float().numpy(), tensors)
