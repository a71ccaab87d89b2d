"""Metrics: pure functions of arrays or tensors, each compared with the field's reference library.

A function may share its file's name, and the import system would then put the file in the
function's place. So the functions are imported here, where they take precedence, and their files
import NumPy only when they are called.
"""

from wsikit.metrics.auc import macro_auc, roc_auc
from wsikit.metrics.harrell_c import harrell_c
from wsikit.metrics.undefined import UndefinedMetricError

__all__ = ["UndefinedMetricError", "harrell_c", "macro_auc", "roc_auc"]
