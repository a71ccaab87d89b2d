"""Several yes-or-no labels of a patient, some of which may not be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from wsikit.cohort.cells import flag_of
from wsikit.errors import ConfigError


@dataclass(frozen=True)
class LabelsTarget:
    """Labels of patients.

    Attributes:
        positive: (P, L) bool, False where the label is not known.
        known: (P, L) bool; what is not known enters no loss and no metric.
        names: Of the L labels.
    """

    positive: npt.NDArray[np.bool_]
    known: npt.NDArray[np.bool_]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.positive)

    def take(self, rows: npt.NDArray[np.int64]) -> LabelsTarget:
        """The target of some patients."""
        return LabelsTarget(self.positive[rows], self.known[rows], self.names)

    def counts(self) -> list[tuple[str, int, int]]:
        """Of each label its name, and how many patients have it and have it not."""
        yes = (self.positive & self.known).sum(0).tolist()
        no = (~self.positive & self.known).sum(0).tolist()
        return list(zip(self.names, yes, no, strict=True))

    def cells(self) -> dict[str, list[object]]:
        """The column of each label as a table has it: "1", "0", or "" where it is not known."""
        text = np.where(self.known, np.where(self.positive, "1", "0"), "")
        return {name: text[:, i].tolist() for i, name in enumerate(self.names)}

    def rarest(self) -> npt.NDArray[np.int64]:
        """Of each patient the rarest label that it has, numbered from 1, (P,); 0 where it has none.

        Dealt by it, the rarest label is everywhere alike, then the next as far as that leaves room: the first
        step of iterative stratification (Sechidis et al., 2011, doi:10.1007/978-3-642-23808-6_10).
        """
        has = self.positive & self.known
        order = np.argsort(has.sum(0), kind="stable")
        return np.where(has.any(1), order[np.argmax(has[:, order], axis=1)] + 1, 0).astype(np.int64)


@dataclass(frozen=True)
class Labels:
    """Several labels, a column of 0 and 1 for each; an empty cell is a label that is not known.

    Patients without any known label are left out.

    Args:
        columns: Names of the columns, in the order of the outputs.
    """

    kind: ClassVar[str] = "labels"
    columns: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.columns) < 2 or len(set(self.columns)) != len(self.columns):
            raise ConfigError(
                f"endpoint of kind 'labels': columns {list(self.columns)}, expected two or more different ones "
                "(for a single one use kind 'class')"
            )

    @property
    def title(self) -> str:
        """For headings."""
        return ", ".join(self.columns)

    def parse(self, values: Sequence[Mapping[str, str]], patients: Sequence[str]) -> LabelsTarget:
        """Labels of patients from their cells.

        Raises:
            ConfigError: A cell that is neither empty nor 0 / 1 / true / false.
        """
        positive = np.zeros((len(values), len(self.columns)), bool)
        known = np.zeros_like(positive)
        for i, (row, patient) in enumerate(zip(values, patients, strict=True)):
            for j, column in enumerate(self.columns):
                if row[column]:
                    known[i, j], positive[i, j] = True, flag_of(row[column], column, patient)
        return LabelsTarget(positive, known, self.columns)
