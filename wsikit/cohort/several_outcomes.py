"""Several outcomes of a patient that one model learns together, any of which may not be known."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from wsikit.errors import ConfigError
from wsikit.registry import nearest

if TYPE_CHECKING:
    from wsikit.cohort.endpoints import Endpoint, Target

Rows = npt.NDArray[np.int64]
Weighting = Literal["fixed", "uncertainty"]


@dataclass(frozen=True)
class KnownTarget:
    """One outcome of P patients, some of whom have it known.

    Attributes:
        known: (P,) bool.
        target: Of those who have it known alone, in their order.
    """

    known: npt.NDArray[np.bool_]
    target: Target

    def take(self, rows: Rows) -> KnownTarget:
        """The outcome of some patients."""
        place = np.cumsum(self.known) - 1  # of each patient who has it among those who have it
        known = self.known[rows]
        return KnownTarget(known, self.target.take(place[rows[known]]))


@dataclass(frozen=True)
class SeveralTarget:
    """Several outcomes of P patients; what is not known enters no loss and no metric.

    Attributes:
        names: Of the outcomes.
        parts: Each outcome.
        main: Number of the one that patients are dealt by.
    """

    names: tuple[str, ...]
    parts: tuple[KnownTarget, ...]
    main: int = 0

    def __len__(self) -> int:
        return len(self.parts[0].known)

    def take(self, rows: Rows) -> SeveralTarget:
        """The target of some patients."""
        return SeveralTarget(self.names, tuple(part.take(rows) for part in self.parts), self.main)

    def codes(self, of_known: Rows) -> Rows:
        """A code of each patient, (P,): that of the main outcome where it is known, a further one elsewhere.

        Args:
            of_known: Codes from 0 of those who have the main outcome known.
        """
        known = self.parts[self.main].known
        found = np.full(len(known), int(of_known.max(initial=-1)) + 1, np.int64)
        found[known] = of_known
        return found


@dataclass(frozen=True)
class Several:
    """Several outcomes, each an endpoint of its own; an empty cell is an outcome that is not known.

    Patients without any known outcome are left out.

    Args:
        outcomes: Name and endpoint of each.
        weights: Of each outcome's loss.
        weighting: ``fixed``: by these weights; ``uncertainty``: by weights that are learnt beside them (see
            ``wsikit.tasks.several``).
        stratify: Name of the outcome that patients are dealt to folds by.
    """

    kind: ClassVar[str] = "several"
    outcomes: tuple[tuple[str, Endpoint], ...]
    weights: tuple[float, ...]
    weighting: Weighting = "fixed"
    stratify: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Of the outcomes."""
        return tuple(name for name, _ in self.outcomes)

    @property
    def main(self) -> int:
        """Number of the outcome that patients are dealt by."""
        return self.names.index(self.stratify)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that it needs."""
        return tuple(dict.fromkeys(column for _, one in self.outcomes for column in one.columns))

    @property
    def title(self) -> str:
        """For headings."""
        return ", ".join(self.names)

    def parse(self, values: Sequence[Mapping[str, str]], patients: Sequence[str]) -> SeveralTarget:
        """Outcomes of patients from their cells.

        Raises:
            ConfigError: A value that its endpoint does not take, or an outcome that nobody has known.
        """
        from wsikit.cohort.endpoints import lacking

        parts = []
        for name, one in self.outcomes:
            known = np.array([lacking(one, row) is None for row in values], bool)
            if not known.any():
                raise ConfigError(
                    f"outcome {name!r}: none of {len(values)} patients has it; fill in {', '.join(one.columns)}, or "
                    "leave the outcome out"
                )
            mine = np.flatnonzero(known).tolist()
            parts.append(KnownTarget(known, one.parse([values[i] for i in mine], [patients[i] for i in mine])))
        return SeveralTarget(self.names, tuple(parts), self.main)


def several_from(given: Mapping[str, Any], build: Callable[[Mapping[str, Any]], Endpoint]) -> Several:
    """Several outcomes from plain values: ``outcomes`` (name -> endpoint, each with a ``weight``), and the settings.

    Args:
        given: All but the kind.
        build: Makes the endpoint of one outcome.

    Raises:
        ConfigError: Fewer than two outcomes, a name or weight that cannot be used, an unknown setting.
    """
    known = ["outcomes", "weighting", "stratify"]
    for setting in given:
        if setting not in known:
            raise ConfigError(
                f"endpoint of kind 'several': no setting {setting!r}{nearest(setting, known)} (it has: {known})"
            )
    listed = given.get("outcomes")
    if not isinstance(listed, Mapping) or len(listed) < 2:
        raise ConfigError(
            f"endpoint of kind 'several': outcomes is {listed!r}, expected two or more names, each with an endpoint "
            "such as {kind: class, column: subtype, classes: [A, B]}"
        )
    outcomes, weights = [], []
    for name, settings in listed.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
            raise ConfigError(f"outcome {name!r}: expected a name of letters, digits, '-' and '_': it names a folder")
        if not isinstance(settings, Mapping) or settings.get("kind") == Several.kind:
            raise ConfigError(f"outcome {name!r} is {settings!r}, expected an endpoint of one outcome")
        own = dict(settings)
        weight = own.pop("weight", 1.0)
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
            raise ConfigError(f"outcome {name!r}: weight is {weight!r}, expected a number above 0")
        try:
            outcomes.append((name, build(own)))
        except ConfigError as e:
            raise ConfigError(f"outcome {name!r}: {e}") from None
        weights.append(float(weight))
    names = [name for name, _ in outcomes]
    stratify, weighting = given.get("stratify", names[0]), given.get("weighting", "fixed")
    if stratify not in names:
        raise ConfigError(f"endpoint: stratify is {stratify!r}, expected one of {names}{nearest(str(stratify), names)}")
    if weighting not in get_args(Weighting):
        raise ConfigError(f"endpoint: weighting is {weighting!r}, expected one of {list(get_args(Weighting))}")
    return Several(tuple(outcomes), tuple(weights), weighting, stratify)


def several_settings(endpoint: Several, plain: Callable[[Endpoint], dict[str, Any]]) -> dict[str, Any]:
    """The plain values that ``several_from`` takes, and the kind.

    Args:
        endpoint: Several outcomes.
        plain: Gives those of one.
    """
    each = zip(endpoint.outcomes, endpoint.weights, strict=True)
    return {
        "kind": endpoint.kind,
        "outcomes": {name: plain(one) | {"weight": weight} for (name, one), weight in each},
        "weighting": endpoint.weighting,
        "stratify": endpoint.stratify,
    }
