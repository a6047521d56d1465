"""Gates: limits, budgets and baselines that a run must hold, decided from what it measured."""

from onnxcompress.gates.baseline import REGRESSION, Regression, against, read_run
from onnxcompress.gates.budgets import Budgets, read_budgets
from onnxcompress.gates.demands import Demands
from onnxcompress.gates.limits import LIMITS, Limit, check, decide, require

__all__ = [
    "LIMITS",
    "REGRESSION",
    "Budgets",
    "Demands",
    "Limit",
    "Regression",
    "against",
    "check",
    "decide",
    "read_budgets",
    "read_run",
    "require",
]
