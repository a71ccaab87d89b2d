"""What the text of a cell means: a number, a yes or a no."""

from __future__ import annotations

import numpy as np

from wsikit.errors import ConfigError

_TRUE, _FALSE = {"1", "true", "yes", "1.0"}, {"0", "false", "no", "0.0"}


def number_of(text: str, column: str, patient: str) -> float:
    """A finite number.

    Raises:
        ConfigError: Anything else; patient, column and cell are named.
    """
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise ConfigError(
            f"patient {patient!r}: column {column!r} has {text!r}, expected a number "
            "(an empty cell excludes the patient)"
        )
    return value


def flag_of(text: str, column: str, patient: str) -> bool:
    """True or False, in the ways people write them.

    Raises:
        ConfigError: Anything else; patient, column and cell are named.
    """
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise ConfigError(
        f"patient {patient!r}: column {column!r} has {text!r}, expected 0 / 1 (or false / true, no / yes); "
        "for a column of words such as alive / dead make one of 0 and 1"
    )
