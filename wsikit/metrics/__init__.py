"""Metrics: pure functions of arrays or tensors, each compared with the field's reference library.

A function may share its file's name, and the import system would then put the file in the
function's place. So the functions are imported here, where they take precedence, and their files
import NumPy only when they are called.
"""

from wsikit.metrics.auc import macro_auc, roc_auc
from wsikit.metrics.average_precision import average_precision
from wsikit.metrics.calibration import (
    CalibrationCurve,
    brier_score,
    calibration_curve,
    calibration_error_by_chance,
    calibration_intercept,
    calibration_slope,
    expected_calibration_error,
)
from wsikit.metrics.cohen_kappa import cohen_kappa
from wsikit.metrics.cox_slope import cox_slope
from wsikit.metrics.delong import DeLong, delong_test
from wsikit.metrics.f1 import f1_score, macro_f1
from wsikit.metrics.harrell_c import harrell_c
from wsikit.metrics.net_benefit import net_benefit
from wsikit.metrics.survival_brier import survival_brier
from wsikit.metrics.survival_curve import StepCurve, baseline_hazard, censoring_curve, kaplan_meier
from wsikit.metrics.undefined import UndefinedMetricError
from wsikit.metrics.uno_c import uno_c

__all__ = [
    "CalibrationCurve",
    "DeLong",
    "StepCurve",
    "UndefinedMetricError",
    "average_precision",
    "baseline_hazard",
    "brier_score",
    "calibration_curve",
    "calibration_error_by_chance",
    "calibration_intercept",
    "calibration_slope",
    "censoring_curve",
    "cohen_kappa",
    "cox_slope",
    "delong_test",
    "expected_calibration_error",
    "f1_score",
    "harrell_c",
    "kaplan_meier",
    "macro_auc",
    "macro_f1",
    "net_benefit",
    "roc_auc",
    "survival_brier",
    "uno_c",
]
