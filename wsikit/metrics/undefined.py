"""Where a metric has no value: patients it is not defined on, and inputs that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikit.errors import ConfigError, WsikitError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


class UndefinedMetricError(WsikitError, ValueError):
    """The metric is not defined on these patients: no comparable pair, one class only.

    It is raised where other libraries return NaN or 0.5, either of which ends up in an average.
    """

    state = "undefined-metric"


def as_numbers(name: str, values: Any, *, ndim: int = 1) -> npt.NDArray[np.float64]:
    """An array, sequence or tensor on any device as float64.

    Raises:
        ConfigError: Other than ``ndim`` axes, or a number that is not finite.
    """
    import numpy as np

    if hasattr(values, "detach"):  # a tensor: known by its method, so that torch need not be loaded
        values = values.detach().cpu().double()
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != ndim:
        raise ConfigError(f"{name} must have {ndim} axis(es), one row per patient; found shape {numbers.shape}")
    if not np.isfinite(numbers).all():
        row = int(np.argwhere(~np.isfinite(numbers))[0][0])
        raise ConfigError(f"{name} of row {row} is {numbers[row]}; it must be finite")
    return numbers


def as_flags(name: str, values: Any) -> npt.NDArray[np.bool_]:
    """Bool or 0/1 values, (P,), as bool.

    Raises:
        ConfigError: Another value, or another shape.
    """
    import numpy as np

    numbers = as_numbers(name, values)
    good = (numbers == 0) | (numbers == 1)
    if not good.all():
        row = int(np.argmin(good))
        raise ConfigError(f"{name} of row {row} is {numbers[row]:g}; it must be 0 or 1")
    return np.asarray(numbers, np.bool_)


def as_codes(name: str, values: Any, patients: int) -> npt.NDArray[np.int64]:
    """Labels of any type, (P,), numbered from 0 in sorted order; None is one group of all.

    Raises:
        ConfigError: Not one label per patient, or NaN for one.
    """
    import numpy as np

    if values is None:
        return np.zeros(patients, np.int64)
    labels = np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)
    if labels.shape != (patients,):
        raise ConfigError(f"{name} must hold one label for each of {patients} patients; found shape {labels.shape}")
    if labels.dtype.kind == "f" and np.isnan(labels).any():
        raise ConfigError(f"{name} of row {int(np.argmax(np.isnan(labels)))} is missing; every patient must have one")
    return np.unique(labels, return_inverse=True)[1].astype(np.int64, copy=False)


def same_length(**columns: npt.NDArray[Any]) -> None:
    """Refuse columns of different numbers of rows.

    Raises:
        ConfigError: With the name and the number of rows of each.
    """
    if len({len(column) for column in columns.values()}) > 1:
        found = ", ".join(f"{name} {len(column)}" for name, column in columns.items())
        raise ConfigError(f"one row per patient expected in every column; found rows: {found}")
