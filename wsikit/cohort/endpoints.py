"""What is to be predicted: a class, a grade, labels, a survival time, or a number, read from a table with care.

Values come as text, exactly as the file has them: what "1", "1.0" or "" means is decided here and
not by a CSV parser.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, TypeAlias

import numpy as np
import numpy.typing as npt

from wsikit.cohort.cells import flag_of, number_of
from wsikit.cohort.several_labels import Labels, LabelsTarget
from wsikit.cohort.several_outcomes import Several, SeveralTarget, several_from, several_settings
from wsikit.errors import ConfigError
from wsikit.registry import nearest

UNITS = ("days", "weeks", "months", "years")
FEWEST_BINS = 8
"""Of a binned number: the outermost two bins at each end only keep the soft labels of the extremes whole."""


@dataclass(frozen=True)
class ClassTarget:
    """Classes of patients.

    Attributes:
        label: (P,) int64, index into ``classes``.
        classes: Names, in the endpoint's order.
        ordered: Whether a later class is more of the same, as grades are.
    """

    label: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    ordered: bool = False

    def __len__(self) -> int:
        return len(self.label)

    def take(self, rows: npt.NDArray[np.int64]) -> ClassTarget:
        """The target of some patients."""
        return ClassTarget(self.label[rows], self.classes, self.ordered)


@dataclass(frozen=True)
class SurvivalTarget:
    """Survival of patients.

    Attributes:
        time: (P,) float64, above 0, in ``unit``.
        event: (P,) bool, True = it happened.
        unit: One of ``UNITS``.
    """

    time: npt.NDArray[np.float64]
    event: npt.NDArray[np.bool_]
    unit: str

    def __len__(self) -> int:
        return len(self.time)

    def take(self, rows: npt.NDArray[np.int64]) -> SurvivalTarget:
        """The target of some patients."""
        return SurvivalTarget(self.time[rows], self.event[rows], self.unit)


@dataclass(frozen=True)
class ContinuousTarget:
    """A number for each patient.

    Attributes:
        value: (P,) float64.
    """

    value: npt.NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.value)

    def take(self, rows: npt.NDArray[np.int64]) -> ContinuousTarget:
        """The target of some patients."""
        return ContinuousTarget(self.value[rows])


Target: TypeAlias = ClassTarget | SurvivalTarget | ContinuousTarget | LabelsTarget | SeveralTarget


@dataclass(frozen=True)
class ClassLabel:
    """A class, from one column.

    Args:
        column: Its name.
        classes: Every value the column may have, in the order of the outputs; of two, the second is
            the positive one. The order is never taken from the data: that is how labels get flipped.
    """

    kind: ClassVar[str] = "class"
    column: str
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.classes) < 2 or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"endpoint {self.column!r}: classes {self.classes}, expected two or more different ones")

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that it needs."""
        return (self.column,)

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.column}: {' / '.join(self.classes)}"

    def parse(self, values: Sequence[Mapping[str, str]], patients: Sequence[str]) -> ClassTarget:
        """Labels of patients from their cells.

        Raises:
            ConfigError: A value that is not one of the classes.
        """
        number = {name: i for i, name in enumerate(self.classes)}
        label = np.empty(len(values), np.int64)
        for i, (row, patient) in enumerate(zip(values, patients, strict=True)):
            found = row[self.column]
            if found not in number:
                raise ConfigError(
                    f"patient {patient!r}: column {self.column!r} has {found!r}, which is not one of the classes "
                    f"{list(self.classes)}{nearest(found, self.classes)}; add it, or leave the cell empty to exclude"
                )
            label[i] = number[found]
        return ClassTarget(label, self.classes)


@dataclass(frozen=True)
class Ordinal(ClassLabel):
    """A grade, from one column: classes of which each is more than the one before.

    Args:
        column: Its name.
        classes: Three or more, from least to most.
    """

    kind: ClassVar[str] = "ordinal"

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.classes) < 3:
            raise ConfigError(
                f"endpoint {self.column!r}: {len(self.classes)} classes have no order that matters; "
                "use kind 'class', or name three or more"
            )

    def parse(self, values: Sequence[Mapping[str, str]], patients: Sequence[str]) -> ClassTarget:
        """Grades of patients from their cells; as for a class."""
        return replace(super().parse(values, patients), ordered=True)


@dataclass(frozen=True)
class Survival:
    """Time to an event, from two columns.

    Args:
        time: Column of the time to the event or to the last contact.
        event: Column that says 1 where the event happened, 0 where it had not at the last contact.
        censored: Instead of ``event``: a column that says 1 where it had NOT happened. Which of the
            two it is has to be said: read the wrong way round, every result turns into its opposite.
        unit: Of the times: days, weeks, months or years.
    """

    kind: ClassVar[str] = "survival"
    time: str
    unit: str
    event: str | None = None
    censored: str | None = None

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise ConfigError(
                f"survival endpoint: unit {self.unit!r}, expected one of {list(UNITS)}{nearest(self.unit, UNITS)}"
            )
        if (self.event is None) == (self.censored is None):
            raise ConfigError(
                "survival endpoint: give one of 'event' (1 = it happened) and 'censored' (1 = it did not)"
            )
        if self.event is not None and "cens" in self.event.lower():
            raise ConfigError(
                f"survival endpoint: 'event: {self.event}' names a column about censoring, where 1 usually means "
                f"that the event did NOT happen; if so write 'censored: {self.event}', otherwise rename the column"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that it needs."""
        return (self.time, self.event or self.censored or "")

    @property
    def title(self) -> str:
        """For headings."""
        return f"{self.event or self.time} ({self.unit})"

    def parse(self, values: Sequence[Mapping[str, str]], patients: Sequence[str]) -> SurvivalTarget:
        """Times and events of patients from their cells.

        Raises:
            ConfigError: A time that is not a number above 0; an event that is not 0 / 1 / true / false;
                no event at all.
        """
        time, event = np.empty(len(values)), np.empty(len(values), bool)
        column = self.columns[1]
        for i, (row, patient) in enumerate(zip(values, patients, strict=True)):
            time[i] = number_of(row[self.time], self.time, patient)
            if time[i] <= 0:
                raise ConfigError(
                    f"patient {patient!r}: column {self.time!r} has {row[self.time]!r}, expected a time above 0 "
                    f"{self.unit}; a death on the first day is usually entered as half a day, an unknown time as an "
                    "empty cell (the patient is then excluded and counted)"
                )
            event[i] = flag_of(row[column], column, patient) != (self.censored is not None)
        if len(values) and not event.any():
            raise ConfigError(
                f"column {column!r}: none of {len(values)} patients has the event; if 1 means that it did not happen, "
                f"write 'censored: {column}'"
            )
        return SurvivalTarget(time, event, self.unit)


@dataclass(frozen=True)
class Continuous:
    """A number, from one column.

    Args:
        column: Its name.
        bins: Learn it as a distribution over so many bins, whose mean is predicted (see
            ``wsikit.tasks.binned_regression``); None learns the number by its squared error.
    """

    kind: ClassVar[str] = "continuous"
    column: str
    bins: int | None = None

    def __post_init__(self) -> None:
        if self.bins is not None and (not isinstance(self.bins, int) or self.bins < FEWEST_BINS):
            raise ConfigError(
                f"endpoint {self.column!r}: bins is {self.bins!r}, expected a whole number of at least {FEWEST_BINS} "
                "(20 is usual), or none"
            )

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the table that it needs."""
        return (self.column,)

    @property
    def title(self) -> str:
        """For headings."""
        return self.column

    def parse(self, values: Sequence[Mapping[str, str]], patients: Sequence[str]) -> ContinuousTarget:
        """Numbers of patients from their cells.

        Raises:
            ConfigError: A cell that is not a finite number.
        """
        found = [number_of(row[self.column], self.column, p) for row, p in zip(values, patients, strict=True)]
        return ContinuousTarget(np.array(found, np.float64))


Endpoint: TypeAlias = ClassLabel | Survival | Continuous | Labels | Several


def endpoint_from(settings: Mapping[str, Any]) -> Endpoint:
    """An endpoint from plain values, as a configuration or a bundle has them.

    Raises:
        ConfigError: An unknown kind or setting.
    """
    kinds: dict[str, Any] = {one.kind: one for one in (ClassLabel, Ordinal, Labels, Survival, Continuous, Several)}
    given = dict(settings)
    kind = given.pop("kind", None)
    if kind == Several.kind:
        return several_from(given, endpoint_from)
    if kind not in kinds:
        raise ConfigError(f"endpoint: kind {kind!r}, expected one of {list(kinds)}{nearest(str(kind), kinds)}")
    build = kinds[kind]
    fields = list(build.__dataclass_fields__)
    for name in given:
        if name not in fields:
            raise ConfigError(
                f"endpoint of kind {kind!r}: no setting {name!r}{nearest(name, fields)} (it has: {fields})"
            )
    if "classes" in given:
        if not isinstance(given["classes"], list | tuple):  # a text would be taken apart into letters
            raise ConfigError(f"endpoint of kind {kind!r}: classes is {given['classes']!r}, expected a list of names")
        given["classes"] = tuple(_as_text(c) for c in given["classes"])
    if "columns" in given:
        if not isinstance(given["columns"], list | tuple):
            raise ConfigError(f"endpoint of kind {kind!r}: columns is {given['columns']!r}, expected a list of names")
        given["columns"] = tuple(str(c) for c in given["columns"])
    try:
        endpoint: Endpoint = build(**given)
        return endpoint
    except TypeError as e:
        needed = [n for n, f in build.__dataclass_fields__.items() if n not in given and _required(f)]
        raise ConfigError(f"endpoint of kind {kind!r}: {', '.join(needed) or e} missing") from None


def endpoint_settings(endpoint: Endpoint) -> dict[str, Any]:
    """The plain values that ``endpoint_from`` takes."""
    if isinstance(endpoint, Several):
        return several_settings(endpoint, endpoint_settings)
    values = {name: getattr(endpoint, name) for name in endpoint.__dataclass_fields__}
    return {"kind": endpoint.kind} | {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def lacking(endpoint: Endpoint, cell: Mapping[str, str]) -> str | None:
    """What a patient's cells lack of an outcome ("value of grade"), or None."""
    if isinstance(endpoint, Several):
        known = any(lacking(one, cell) is None for _, one in endpoint.outcomes)
        return None if known else "value of any outcome"
    if isinstance(endpoint, Labels):
        return None if any(cell[column] for column in endpoint.columns) else "value of any label"
    empty = next((column for column in endpoint.columns if not cell[column]), None)
    return None if empty is None else f"value of {empty}"


def _required(field: Any) -> bool:
    from dataclasses import MISSING

    return field.default is MISSING


def _as_text(value: Any) -> str:
    """A class as the table would have it: YAML turns 0 into a number and yes into True."""
    if isinstance(value, bool):
        raise ConfigError(f"classes: {value} is YAML for yes / no / true / false; put it in quotes as the table has it")
    return str(value)
