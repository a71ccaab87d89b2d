"""Decision curves: whether acting on a model does more good than harm, threshold by threshold."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wsikit.errors import ConfigError
from wsikit.metrics.undefined import UndefinedMetricError, as_flags, as_numbers, same_length

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def net_benefit(probability: Any, positive: Any, *, thresholds: Any) -> npt.NDArray[np.float64]:
    r"""Net benefit of treating everybody whose probability is at least the threshold.

    NB(t) = TP / n - FP / n * t / (1 - t): true positives, less false positives at the rate of exchange
    that the threshold stands for (who acts from 10 % on takes nine needless treatments for one that is
    needed). Treating nobody has net benefit 0; treating all is ``net_benefit`` of probabilities of 1.

    Args:
        probability: (P,) of the positive class.
        positive: (P,) bool or 0/1.
        thresholds: (T,) above 0 and below 1.

    Returns:
        (T,), at most the share of positives; negative where acting does more harm than good.

    Raises:
        UndefinedMetricError: No patients.
        ConfigError: Columns of different lengths, a probability outside 0 to 1, a threshold that is not between them.

    Example:
        >>> net_benefit([0.1, 0.6, 0.9, 0.2], [0, 1, 1, 0], thresholds=[0.5]).tolist()
        [0.5]

    Reference:
        Vickers and Elkin, 2006, Med Decis Making 26(6):565-574, doi:10.1177/0272989X06295361, equation 1.
    """
    import numpy as np

    chance, flag = as_numbers("probability", probability), as_flags("positive", positive)
    cut = as_numbers("thresholds", thresholds)
    same_length(probability=chance, positive=flag)
    if ((chance < 0) | (chance > 1 + 1e-9)).any():
        raise ConfigError(f"probability goes from {chance.min():g} to {chance.max():g}; expected 0 to 1")
    if ((cut <= 0) | (cut >= 1)).any():
        raise ConfigError(f"thresholds go from {cut.min():g} to {cut.max():g}; expected above 0 and below 1")
    if len(chance) == 0:
        raise UndefinedMetricError("the net benefit among no patients is not defined")
    treated = chance >= cut[:, None]  # (T, P)
    true, false = (treated & flag).sum(1), (treated & ~flag).sum(1)
    return np.asarray((true - false * cut / (1 - cut)) / len(chance), np.float64)
