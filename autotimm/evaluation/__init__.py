"""The metrics of a checkpoint or an artifact on a data set, by the same code."""

from autotimm.evaluation.run import evaluate
from autotimm.evaluation.samples import EvaluationSet, read_evaluation_set

__all__ = ["EvaluationSet", "evaluate", "read_evaluation_set"]
